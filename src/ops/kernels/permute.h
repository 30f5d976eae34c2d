// Kernels that add rows.
#pragma once

#include <cstdint>

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

struct PermuteKernels {
  // Rows [begin, end): y[t] (+)= sum_k x[row[t * choices + k]]; by the formats of y and x.
  void (*combine[2][2])(const Matrix& y, bool accumulate, const Matrix& x, const int32_t* row,
                        int64_t choices, int64_t begin, int64_t end);
};
MINKE_DECLARE_KERNELS(PermuteKernels, permute_kernels)

}  // namespace minke::ops::kernels
