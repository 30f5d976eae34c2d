#include "ops/kernels/permute.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

// Two vectors at a time: a cache line of BF16.
template <typename Y, typename X>
void combine(const Matrix& y_TD, bool accumulate, const Matrix& x_RD, const int32_t* row,
             int64_t choices, int64_t begin, int64_t end) {
  const auto add = [&](Y* y, int64_t i, int n, const Vec& sum) {
    store_n(y + i, accumulate ? load_n(y + i, n) + sum : sum, n);
  };
  const int64_t D = y_TD.cols;
  for (int64_t t = begin; t < end; ++t) {
    Y* y = row_of<Y>(y_TD, t);
    const int32_t* rows = row + t * choices;
    const int32_t* next = t + 1 < end ? rows + choices : rows;
    int64_t i = 0;
    for (; i + 2 * kLanes <= D; i += 2 * kLanes) {
      Vec low = zero(), high = zero();
      for (int64_t k = 0; k < choices; ++k) {
        const X* x = row_of<X>(x_RD, rows[k]) + i;
        prefetch(row_of<X>(x_RD, next[k]) + i);
        low = low + load(x);
        high = high + load(x + kLanes);
      }
      add(y, i, kLanes, low);
      add(y, i + kLanes, kLanes, high);
    }
    for (; i < D; i += kLanes) {
      const int n = D - i < kLanes ? static_cast<int>(D - i) : kLanes;
      Vec sum = zero();
      for (int64_t k = 0; k < choices; ++k) sum = sum + load_n(row_of<X>(x_RD, rows[k]) + i, n);
      add(y, i, n, sum);
    }
  }
}

}  // namespace

const PermuteKernels& permute_kernels() {
  static constexpr PermuteKernels kTable{
      {{combine<float, float>, combine<float, bf16>}, {combine<bf16, float>, combine<bf16, bf16>}}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
