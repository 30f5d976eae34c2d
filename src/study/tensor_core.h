// How a tensor core of NVIDIA's Hopper adds up products of FP8 (V3 report, section 3.3.2 and its
// footnote): 32 products at a time are shifted to the largest exponent among them and the sum so
// far, and only their highest 14 bits are added, the rest cut off; the sum keeps 14 bits, too.
#pragma once

#include <cstdint>
#include <span>

namespace minke::study {

// The sum of a[i] * b[i], which FP32 must hold exactly (as it does those of E4M3). promote: after
// so many numbers the sum goes to a total in FP32 and begins anew (a multiple of 32; 0: never).
float tensor_core_dot(std::span<const float> a, std::span<const float> b, int64_t promote);

}  // namespace minke::study
