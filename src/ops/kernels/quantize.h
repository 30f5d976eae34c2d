// Kernels that quantise to E4M3 (tensor/scales.h says what comes out, bit for bit). A tile that
// holds a number that is not finite becomes zeros with the scale NaN.
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
  void (*rows[2])(const QuantizeRows& what, int64_t begin, int64_t end);
  // One tile of at most 128x128 of x (FP32, BF16); codes have that shape.
  void (*block[2])(const Matrix& codes, float* scale, const Matrix& x, bool power_of_two);
  // x (FP32, BF16) = code * scale, in tiles of 1x128.
  void (*dequantize[2])(const Matrix& x, const Matrix& codes, const float* scale,
                        int64_t scale_stride, int64_t begin, int64_t end);
};
MINKE_DECLARE_KERNELS(QuantizeKernels, quantize_kernels)

struct QuantizeColumnsKernels {
  // By the format of x: FP32, BF16, E4M3. To a panel of numbers in BF16 (ops/kernels/matmul.h).
  void (*columns[3])(const QuantizeColumns& what);
};
MINKE_DECLARE_KERNELS(QuantizeColumnsKernels, quantize_columns_kernels)

}  // namespace minke::ops::kernels
