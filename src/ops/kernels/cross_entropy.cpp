#include "ops/kernels/cross_entropy.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

SoftmaxRow softmax(float* x, int64_t count) {
  constexpr int64_t kBlock = 1024;
  SoftmaxRow row{x[0], 0, 0.0};
  int64_t best = 0;
  for (int64_t b = 0; b < count; b += kBlock) {
    const int64_t n = count - b < kBlock ? count - b : kBlock;
    const float top = max_vectors(n, x + b);
    if (top > row.top) {
      row.top = top;
      best = b;
    }
  }
  while (best < count && x[best] != row.top) ++best;
  row.where = best < count ? best : 0;  // NaN equals nothing

  // Sums of a block are FP32, their sum is a double: the error does not grow with the vocabulary.
  for (int64_t b = 0; b < count; b += kBlock) {
    const int64_t n = count - b < kBlock ? count - b : kBlock;
    float* block = x + b;
    row.total += static_cast<double>(sum_vectors(n, [&](int64_t i, auto m) {
      const auto e = exp(load_n(block + i, m) - splat(row.top));
      store_n(block + i, e, m);
      return keep_n(e, m);
    }));
  }
  return row;
}

template <typename D>
void scale(void* to, const float* e, float factor, int64_t count) {
  auto* d = static_cast<D*>(to);
  for_each_vector(count,
                  [&](int64_t i, int n) { store_n(d + i, load_n(e + i, n) * splat(factor), n); });
}

}  // namespace

const CrossEntropyKernels& cross_entropy_kernels() {
  static constexpr CrossEntropyKernels kTable{softmax, {scale<float>, scale<bf16>}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
