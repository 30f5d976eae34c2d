#include "ops/peak.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/thread_pool.h"
#include "ops/kernels/peak.h"

namespace minke::ops {
namespace {

constexpr int64_t kChunkBytes = int64_t{1} << 20;

auto table() { return MINKE_KERNELS(kernels::PeakKernels, peak_kernels); }

// Short pieces, so that a thread that is held up is not waited for.
double multiply(double (*kernel)(int64_t), int64_t rounds) {
  constexpr int64_t kRounds = 4096;
  const int64_t pieces = std::max<int64_t>(1, rounds * thread_count() / kRounds);
  std::vector<double> done(static_cast<size_t>(pieces));
  parallel_for(pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) done[static_cast<size_t>(i)] = kernel(kRounds);
  });
  double sum = 0;
  for (const double flops : done) sum += flops;
  return sum;
}

}  // namespace

double multiply_f32(int64_t rounds) { return multiply(table()->multiply_f32, rounds); }
double multiply_bf16(int64_t rounds) { return multiply(table()->multiply_bf16, rounds); }

void read_memory(std::span<const std::byte> data) {
  std::atomic<uint32_t> all{0};
  parallel_for(static_cast<int64_t>(data.size()), kChunkBytes, [&](int64_t begin, int64_t end) {
    all.fetch_or(table()->read(data.data() + begin, static_cast<size_t>(end - begin)),
                 std::memory_order_relaxed);
  });
}

void update_memory(std::span<std::byte> data) {
  parallel_for(static_cast<int64_t>(data.size()), kChunkBytes, [&](int64_t begin, int64_t end) {
    table()->update(data.data() + begin, static_cast<size_t>(end - begin));
  });
}

void move_memory(std::span<std::byte> to, std::span<const std::byte> from) {
  constexpr size_t kPiece = 256;
  const auto chunks = static_cast<size_t>(std::max(to.size(), from.size()) / kChunkBytes + 1);
  const auto edge = [&](size_t bytes, size_t chunk) {
    return bytes / kPiece * chunk / chunks * kPiece;
  };
  parallel_for(static_cast<int64_t>(chunks), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const size_t m = edge(to.size(), i), n = edge(from.size(), i);
      table()->move(to.data() + m, edge(to.size(), i + 1) - m, from.data() + n,
                    edge(from.size(), i + 1) - n);
    }
  });
}

}  // namespace minke::ops
