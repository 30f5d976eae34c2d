// Kernels of RMSNorm, for rows [begin, end) of the matrices.
#pragma once

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

struct NormRows {
  Matrix x, dy;  // dy: backward
  float* rstd;   // may be null in forward
  const float* w;
  float eps;        // forward
  bool accumulate;  // backward: dx +=
  bool streams;     // what is written, whose rows begin at cache lines, goes past the caches
};

struct NormKernels {
  // By the formats of out and x.
  void (*forward[2][2])(const Matrix& y, const NormRows& in, int64_t begin, int64_t end);
  // By the formats of dx, dy and x. dw_D += this block's rows, in order.
  void (*backward[2][2][2])(const Matrix& dx, float* dw, const NormRows& in, int64_t begin,
                            int64_t end);
};
MINKE_DECLARE_KERNELS(NormKernels, norm_kernels)

}  // namespace minke::ops::kernels
