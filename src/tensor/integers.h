// Integers with scales, exact and scalar: what weights of experts and of the head may be stored as
// (`minke quantize`), and what activations become to meet them.
//
// A row is cut into blocks, the last may be partial; number = code * scale of the block.
//
// kI8: blocks of 128. scale = amax / 127, rounded to BF16; codes are x / scale (a true FP32
// division) to nearest even, in [-127, 127].
// kU8: 4 bits, blocks of 32. scale = m / -8, rounded to BF16, where m is the first number of the
// largest magnitude, so that all 16 codes are used; codes are x / scale to nearest even, in
// [-8, 7]. A byte holds code + 8 of two neighbours, the earlier in its lower half (beyond an odd
// end: 8, which is zero).
//
// A block of zeros has scale 1, and no scale is smaller than 2^-126. A number that is not finite is
// an Error, never a code.
#pragma once

#include "tensor/tensor.h"

namespace minke {

inline constexpr int64_t kInt8Block = 128, kInt4Block = 32;

inline bool is_integers(DType format) { return format == DType::kI8 || format == DType::kU8; }
// Of kI8 or kU8: numbers that share a scale, and the shapes of what a matrix [M, N] becomes.
int64_t int_block(DType format);
Shape int_codes_shape(const Shape& matrix, DType format);
Shape int_scale_shape(const Shape& matrix, DType format);

// codes: kI8 or kU8 of int_codes_shape(). scale: BF16 of int_scale_shape(). x_MN: F32.
void quantize_integers(Tensor codes, Tensor scale, Tensor x_MN);
void dequantize_integers(Tensor x_MN, Tensor codes, Tensor scale);

// The FP32 scale of a block of 128 activations, whose codes are as those of kI8.
float int8_scale(float amax);

}  // namespace minke
