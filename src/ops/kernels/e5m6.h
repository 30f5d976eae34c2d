// Kernels of E5M6 with a power-of-two scale for each tile of 1x128 (tensor/scales.h says what comes
// out, bit for bit), 12 bits a number. Of a tile of n numbers first lie the lower bytes of their
// codes, then ceil(n / 2) bytes: the upper bits of the codes of the first half, and, four bits
// higher, of those of the second.
#pragma once

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

struct E5m6Rows {
  Matrix x;  // BF16
  uint8_t* codes;
  int64_t codes_stride;  // bytes
  float* scale;
  int64_t scale_stride;
};

struct E5m6Kernels {
  // x is rounded in place. What is not finite makes its tile NaN, in x and in the scale.
  void (*quantize)(const E5m6Rows& rows, int64_t begin, int64_t end);
  void (*dequantize)(const E5m6Rows& rows, int64_t begin, int64_t end);
};
MINKE_DECLARE_KERNELS(E5m6Kernels, e5m6_kernels)

}  // namespace minke::ops::kernels
