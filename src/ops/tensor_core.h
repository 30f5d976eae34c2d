// How a tensor core of NVIDIA's Hopper adds up products of FP8 (V3 report, section 3.3.2 and its
// footnote): 32 products at a time are shifted to the largest exponent among them and the sum so
// far, and only their highest 14 bits are added, the rest cut off; the sum keeps 14 bits, too.
//
// Arithmetic one number after the other, for what training in such sums does: hundreds of times
// slower than the kernels.
#pragma once

#include <cstdint>
#include <span>

#include "ops/kernels/matmul_fp8.h"

namespace minke::ops {

// The sum of a[i] * b[i]. promote: after so many numbers the sum goes to a total in FP32 and begins
// anew (a multiple of 32; 0: never).
float tensor_core_dot(std::span<const float> a, std::span<const float> b, int64_t promote);

// A part of a product in such sums. Promoted at least as often as scales change, each sum is scaled
// as it goes to the total, as DeepSeek's kernels do it; else numbers are scaled before they are
// multiplied. The left side and what is scaled are BF16; out: FP32 or BF16.
void tensor_core_block(const kernels::Fp8Block& block, DType out, int64_t promote);

}  // namespace minke::ops
