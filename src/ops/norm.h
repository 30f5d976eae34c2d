// RMSNorm: y = x / sqrt(mean(x^2) + eps) * w.
#pragma once

#include "ops/matrix.h"

namespace minke::ops {

// y_TD, x_TD each FP32 or BF16; w_D FP32; rstd_T FP32 (may be empty where no backward follows).
void rms_norm(const Matrix& y_TD, const Tensor& rstd_T, const Matrix& x_TD, const Tensor& w_D,
              float eps);

// dx (+)= , dw_D += (FP32). dx FP32 or BF16 (accumulate: FP32 only). dy, x each FP32 or BF16.
// dw is summed over fixed blocks of rows, then over the blocks in order: the workspace is FP32
// [at most kNormBackwardBlocks, D], small beside the activations.
inline constexpr int64_t kNormBackwardBlocks = 64;
void rms_norm_backward(const Matrix& dx_TD, bool accumulate, const Tensor& dw_D,
                       const Matrix& dy_TD, const Matrix& x_TD, const Tensor& rstd_T,
                       const Tensor& w_D, Arena& scratch);

}  // namespace minke::ops
