#include "ops/kernels/permute.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

template <typename Y, typename X>
void combine(const Matrix& y_TD, bool accumulate, const Matrix& x_RD, const int32_t* row,
             int64_t choices, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    Y* y = row_of<Y>(y_TD, t);
    const int32_t* rows = row + t * choices;
    for_each_vector(y_TD.cols, [&](int64_t i, int n) {
      Vec sum = zero();
      for (int64_t k = 0; k < choices; ++k) sum = sum + load_n(row_of<X>(x_RD, rows[k]) + i, n);
      if (accumulate) sum = load_n(y + i, n) + sum;
      store_n(y + i, sum, n);
    });
  }
}

}  // namespace

const PermuteKernels& permute_kernels() {
  static constexpr PermuteKernels kTable{
      {{combine<float, float>, combine<float, bf16>}, {combine<bf16, float>, combine<bf16, bf16>}}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
