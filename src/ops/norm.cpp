#include "ops/norm.h"

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/dispatch.h"
#include "ops/kernels/norm.h"

namespace minke::ops {

void rms_norm(const Matrix& y_TD, const Tensor& rstd_T, const Matrix& x_TD, const Tensor& w_D,
              float eps) {
  const Profiled profiled("rms_norm");
  const int64_t T = x_TD.rows, D = x_TD.cols;
  MINKE_CHECK(same_shape(y_TD, x_TD) && is_vector(w_D, D));
  MINKE_CHECK(rstd_T.empty() || is_vector(rstd_T, T));
  const kernels::NormRows in{.x = x_TD,
                             .dy = {},
                             .rstd = rstd_T.empty() ? nullptr : rstd_T.data<float>(),
                             .w = w_D.data<float>(),
                             .eps = eps,
                             .accumulate = false,
                             .streams = is_streamed(y_TD)};
  const auto run = MINKE_KERNELS(kernels::NormKernels, norm_kernels)
                       ->forward[format_index(y_TD.dtype)][format_index(x_TD.dtype)];
  parallel_for(T, rows_per_chunk(D),
               [&](int64_t begin, int64_t end) { run(y_TD, in, begin, end); });
}

void rms_norm_backward(const Matrix& dx_TD, bool accumulate, const Tensor& dw_D,
                       const Matrix& dy_TD, const Matrix& x_TD, const Tensor& rstd_T,
                       const Tensor& w_D, Arena& scratch) {
  const Profiled profiled("rms_norm_backward");
  const int64_t T = x_TD.rows, D = x_TD.cols;
  MINKE_CHECK(same_shape(dx_TD, x_TD) && same_shape(dy_TD, x_TD));
  MINKE_CHECK(is_vector(w_D, D) && is_vector(dw_D, D) && is_vector(rstd_T, T));
  MINKE_CHECK(!accumulate || dx_TD.dtype == DType::kF32);
  const kernels::NormRows in{.x = x_TD,
                             .dy = dy_TD,
                             .rstd = rstd_T.data<float>(),
                             .w = w_D.data<float>(),
                             .eps = 0,
                             .accumulate = accumulate,
                             .streams = !accumulate && is_streamed(dx_TD)};
  const auto run = MINKE_KERNELS(kernels::NormKernels, norm_kernels)
                       ->backward[format_index(dx_TD.dtype)][format_index(dy_TD.dtype)]
                                 [format_index(x_TD.dtype)];
  constexpr int64_t kRows = 32;
  const int64_t rows = std::max(kRows, (T + kNormBackwardBlocks - 1) / kNormBackwardBlocks);
  const int64_t blocks = (T + rows - 1) / rows;
  const Arena::Scope scope(scratch);
  float* sums = scratch.make(DType::kF32, {blocks, D}).data<float>();
  parallel_for(T, rows, [&](int64_t begin, int64_t end) {
    float* sum = sums + begin / rows * D;
    std::fill_n(sum, D, 0.0F);
    run(dx_TD, sum, in, begin, end);
  });
  float* dw = dw_D.data<float>();
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t i = 0; i < D; ++i) dw[i] += sums[b * D + i];
  }
}

}  // namespace minke::ops
