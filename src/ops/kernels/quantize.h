// Kernels that quantise to E4M3 (tensor/scales.h says what comes out, bit for bit). They return
// false where a number is not finite.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

// Rows in tiles of 1x128. `numbers` (BF16: each code's number, without its scale) and `codes`
// (E4M3) are written where they have memory.
struct QuantizeRows {
  Matrix x, numbers, codes;
  float* scale;
  int64_t scale_stride;
  bool power_of_two;
};

// Columns of a tile: at most 128 rows by at most kPanel columns of x, a scale each. x is FP32, BF16
// or E4M3, which has `row_scale` of each row.
struct QuantizeColumns {
  Matrix x;
  const float* row_scale;
  int64_t row_scale_stride;
  std::byte* panel;  // its units at the first row
  float* scale;
  bool power_of_two;
};

struct QuantizeKernels {
  // By the format of x: FP32, BF16.
  bool (*rows[2])(const QuantizeRows& what, int64_t begin, int64_t end);
  // One tile of at most 128x128 of x (FP32, BF16); codes have that shape.
  bool (*block[2])(const Matrix& codes, float* scale, const Matrix& x, bool power_of_two);
  // By the format of x: FP32, BF16, E4M3. To a panel of numbers in BF16 (ops/kernels/matmul.h), or
  // of codes (ops/kernels/matmul_fp8.h).
  bool (*columns_to_numbers[3])(const QuantizeColumns& what);
  bool (*columns_to_codes[3])(const QuantizeColumns& what);
  // x (FP32, BF16) = code * scale, in tiles of 1x128.
  void (*dequantize[2])(const Matrix& x, const Matrix& codes, const float* scale,
                        int64_t scale_stride, int64_t begin, int64_t end);
  // Rounds to E5M6 times a power of two for each tile of 1x128, in place.
  bool (*round_e5m6)(const Matrix& x, int64_t begin, int64_t end);
};
MINKE_DECLARE_KERNELS(QuantizeKernels, quantize_kernels)

}  // namespace minke::ops::kernels
