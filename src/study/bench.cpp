#include "study/bench.h"

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "study/peak.h"

namespace minke::study {
namespace {

std::string_view name_of(Limit limit) {
  switch (limit) {
    case Limit::kComputeF32:
      return "FP32 peak";
    case Limit::kComputeBF16:
      return "BF16 peak";
    case Limit::kMemory:
      return "read and write";
    case Limit::kRead:
      return "read";
  }
  MINKE_CHECK(false);
}

// The limit of a case: arithmetic alone, or memory of as many bytes as the op moves, in pages of
// its own.
class Peak {
 public:
  explicit Peak(const OpCase& c) : limit_(c.limit) {
    if (limit_ == Limit::kRead) memory_ = pages(c.work);
    if (limit_ == Limit::kMemory && c.fresh == 0) memory_ = pages(c.work / 2);
    if (limit_ == Limit::kMemory && c.fresh > 0) {
      memory_ = pages(c.work - c.fresh);
      fresh_ = pages(c.fresh);
    }
  }
  double measure() {
    if (memory_.empty()) return peak_flops(limit_);
    if (limit_ == Limit::kRead) return read_bandwidth(bytes_of(memory_));
    return fresh_.empty() ? update_bandwidth(bytes_of(memory_))
                          : move_bandwidth(bytes_of(fresh_), bytes_of(memory_));
  }

 private:
  // Written once: pages that never were are one page of zeros, which a cache holds.
  static OwnedTensor pages(double bytes) {
    OwnedTensor out(DType::kU8, {static_cast<int64_t>(bytes) + 1});
    std::memset(out.raw(), 1, out.bytes());
    return out;
  }
  static std::span<std::byte> bytes_of(const OwnedTensor& x) {
    return {static_cast<std::byte*>(x.raw()), x.bytes()};
  }
  Limit limit_;
  OwnedTensor memory_, fresh_;
};

BenchResult bench(const OpCase& c, OpRun& run, const BenchOptions& options) {
  Peak peak(c);
  const double once = seconds_of([&] { run.run(); });
  const auto rounds = std::max<int64_t>(1, std::llround(options.burst_seconds / once));
  std::vector<double> values, peaks, shares;
  double before = peak.measure();
  for (int burst = 0; burst < options.bursts; ++burst) {
    const double seconds = seconds_of([&] {
      for (int64_t i = 0; i < rounds; ++i) run.run();
    });
    const double after = peak.measure();
    values.push_back(c.work * static_cast<double>(rounds) / seconds);
    peaks.push_back((before + after) / 2);
    shares.push_back(values.back() / peaks.back());
    before = after;
  }
  const bool memory = c.limit == Limit::kMemory || c.limit == Limit::kRead;
  return {.name = c.op,
          .shape = c.shape,
          .threads = thread_count(),
          .value = median(values) / 1e9,
          .unit = memory ? "GB/s" : "GFLOP/s",
          .peak = median(peaks) / 1e9,
          .share = median(shares),
          .peak_name = name_of(c.limit)};
}

}  // namespace

void bench_kernels(const BenchOptions& options,
                   const std::function<void(const BenchResult&)>& on_result) {
  bool any = false;
  for (const OpCase& c : all_op_cases()) {
    const std::string name = c.op + " " + c.shape;
    if (!c.bench || name.find(options.only) == std::string::npos) continue;
    any = true;
    const std::unique_ptr<OpRun> run = c.make();
    for (const int threads : options.threads) {
      set_thread_count(threads);
      run->run();  // wakes threads, faults pages
      on_result(bench(c, *run, options));
    }
  }
  if (!any) fail("no op is named like '{}'", options.only);
}

}  // namespace minke::study
