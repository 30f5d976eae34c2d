// Kernels of the rotary embedding, for rows [begin, end).
#pragma once

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

struct RopeRows {
  int64_t heads, width, offset, half;  // half: rope / 2, pairs of a head
  const float *cos, *sin;              // [positions, half]
  const int32_t* positions;
  bool inverse;
};

struct RopeKernels {
  void (*rotate[2])(const Matrix& dst, const Matrix& src, const RopeRows& how, int64_t begin,
                    int64_t end);
};
MINKE_DECLARE_KERNELS(RopeKernels, rope_kernels)

}  // namespace minke::ops::kernels
