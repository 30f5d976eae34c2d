// Kernels that copy and add rows found by their numbers.
#pragma once

#include <cstdint>

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

struct PermuteKernels {
  // Rows [begin, end): y[r] = x[row[r]]; by the formats of y and x. The same format moves bits: a
  // signalling NaN stays what it is. `streams`: y, whose rows begin at cache lines, is written past
  // the caches.
  void (*gather[2][2])(const Matrix& y, bool streams, const Matrix& x, const int32_t* row,
                       int64_t begin, int64_t end);
  // Rows [begin, end): y[t] (+)= sum_k x[row[t * choices + k]]; by the formats of y and x.
  void (*combine[2][2])(const Matrix& y, bool accumulate, bool streams, const Matrix& x,
                        const int32_t* row, int64_t choices, int64_t begin, int64_t end);
};
MINKE_DECLARE_KERNELS(PermuteKernels, permute_kernels)

}  // namespace minke::ops::kernels
