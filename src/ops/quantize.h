// Quantisation to E4M3 as training does it (V3 report, section 3.3): what the products of a linear
// layer read. tensor/scales.h defines the codes and scales; these are the same bit for bit.
//
// A tile that holds a number that is not finite becomes zeros whose scale is NaN, so whatever reads
// it is NaN, too, and it is for the trainer to say what becomes of the step.
#pragma once

#include <span>

#include "ops/matmul.h"
#include "tensor/scales.h"

namespace minke::ops {

// What an operand is in E4M3.
struct Fp8Recipe {
  ScaleFormat scales = ScaleFormat::kF32;
  // Whether the activations that a weight's gradient reads are those that fprop read (codes in
  // 1x128), dequantised and quantised again along the tokens, or are quantised from what those were
  // made of.
  bool requantized = false;
  // In FP32; or as a tensor core adds up (ops/tensor_core.h), promoted to FP32 every so many
  // numbers (0: never).
  static constexpr int64_t kFp32Sums = -1;
  int64_t promote = kFp32Sums;
};

// x (FP32, BF16) in tiles of 1x128, which begin anew at multiples of `segment` (0: there is one).
// codes: E4M3 [T, C]. scale: FP32 [T, quantized_blocks(C, segment)].
int64_t quantized_blocks(int64_t columns, int64_t segment);
void quantize_rows(const Matrix& codes, const Matrix& scale, const Matrix& x, int64_t segment,
                   ScaleFormat format);
// x (FP32, BF16) = code * scale.
void dequantize_rows(const Matrix& x, const Matrix& codes, const Matrix& scale, int64_t segment);

// x as the left operand of products with E4M3: the numbers of its codes in BF16, and their scales.
// Segments of an odd length, where there is more than one, are one longer in it; what is added is
// zero.
struct QuantizedLeft {
  Matrix numbers;
  Scales scales;
};
int64_t left_columns(int64_t columns, int64_t segment);
QuantizedLeft quantize_left(Arena& scratch, const Matrix& x, const LeftTiles& tiles);
// Into memory that is there, in the calling thread; nothing is counted (ops/quantize_counts.h).
void quantize_left(const Matrix& numbers, float* scale, const Matrix& x, const LeftTiles& tiles);
// Counts what a product quantises itself.
void count_quantizing_left(const Matrix& x, const LeftTiles& tiles);

// x in E5M6 times a power of two for each tile of 1x128, rounded in place, and kept in 12 bits a
// number. x: BF16 [T, C], which holds every such number (above 2^-113: those below are rounded
// twice). codes: U8 [T, e5m6_bytes(C)]. scale: FP32 [T, quantized_blocks(C, 0)].
int64_t e5m6_bytes(int64_t columns);
void quantize_e5m6(const Matrix& x, const Tensor& codes, const Tensor& scale);
void dequantize_e5m6(const Matrix& x, const Tensor& codes, const Tensor& scale);

// A weight [N, K] in blocks of 128x128, packed for fprop and, where by_columns has memory, for
// dgrad: there it is the sum's part from `first` on. from: FP32 or BF16, quantised to `scale`, or
// E4M3, which has its scales already. The packed operands' views say where scales lie.
struct WeightCodes {
  Packed by_rows, by_columns;
  int64_t first = 0;
  float* scale = nullptr;  // [ceil(N / 128), ceil(K / 128)]
  ScaleFormat format = ScaleFormat::kF32;
};
struct QuantizeJob {
  WeightCodes to;
  Matrix from;
};
void quantize_weights(std::span<const QuantizeJob> jobs);
// What rows [row, row + kPackRows) of `from` give of one job, in the calling thread.
void check(const QuantizeJob& job);
void quantize_weight_part(const QuantizeJob& job, int64_t row);

// As matmul_wgrad, with dy and x quantised along the tokens (128x1).
void matmul_wgrad_fp8(std::span<const WeightGradient> products, const Fp8Recipe& recipe,
                      Arena& scratch);

}  // namespace minke::ops
