#include "study/peak.h"

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "ops/peak.h"

namespace minke::study {
namespace {

// The median rate of five runs of work(), which returns how much it did; the first run, which
// wakes threads and faults pages, does not count.
template <typename Work>
double median_rate(Work&& work) {
  work();
  std::vector<double> rates(5);
  for (double& rate : rates) {
    const auto start = Clock::now();
    const double done = work();
    rate = done / seconds_since(start);
  }
  return median(std::move(rates));
}

}  // namespace

double median(std::vector<double> x) {
  std::ranges::sort(x);
  return x[x.size() / 2];
}

double peak_flops(Limit limit) {
  constexpr int64_t kRounds = 1 << 18;  // some 3 ms
  MINKE_CHECK(limit == Limit::kComputeF32 || limit == Limit::kComputeBF16);
  return median_rate([&] {
    return limit == Limit::kComputeBF16 ? ops::multiply_bf16(kRounds) : ops::multiply_f32(kRounds);
  });
}

double read_bandwidth(std::span<const std::byte> data) {
  return median_rate([&] {
    ops::read_memory(data);
    return static_cast<double>(data.size());
  });
}

double update_bandwidth(std::span<std::byte> data) {
  return median_rate([&] {
    ops::update_memory(data);
    return 2 * static_cast<double>(data.size());
  });
}

double move_bandwidth(std::span<std::byte> to, std::span<const std::byte> from) {
  return median_rate([&] {
    ops::move_memory(to, from);
    return static_cast<double>(to.size() + from.size());
  });
}

}  // namespace minke::study
