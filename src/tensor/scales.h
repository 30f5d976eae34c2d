// Tile and block scales, exact and scalar: what every faster quantisation must equal bit for bit.
// (DeepSeek-V3 report, section 3.3)
//
// A matrix [M, N] is cut into tiles of rows x cols, those at the lower and right edge may be
// partial; tile (i, j) has one FP32 scale, and number = code * scale. Codes are x / scale by a true
// FP32 division: x * (1 / scale) differs in some codes. There is no floor under amax: a tile of
// tiny numbers keeps their relative precision. A tile of zeros has scale 1, and no scale is below
// 2^-126. A number that is not finite is an Error, never a code.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/tensor.h"

namespace minke {

struct TileShape {
  int64_t rows, cols;
  friend bool operator==(TileShape, TileShape) = default;
};
inline constexpr TileShape kTile1x128{1, 128};  // activations: a token, 128 channels
inline constexpr TileShape kTile128x1{128, 1};  // along tokens: operands of the weight gradient
inline constexpr TileShape kBlock128x128{128, 128};  // weights

enum class ScaleFormat : uint8_t {
  kF32,         // amax / 448
  kPowerOfTwo,  // the power of two at or above that (ue8m0)
};

// The shape of the scales of a matrix [M, N]: [ceil(M / rows), ceil(N / cols)].
Shape scale_shape(const Shape& matrix, TileShape tile);

// The scale of a tile whose largest magnitude is amax (finite, not negative).
float e4m3_scale(float amax, ScaleFormat format);
// The power of two at or above amax / 65024.
float e5m6_scale(float amax);

// codes_MN: E4M3. scale: F32 of scale_shape(). x_MN: F32.
void quantize_e4m3(Tensor codes_MN, Tensor scale, Tensor x_MN, TileShape tile, ScaleFormat format);
void dequantize_e4m3(Tensor x_MN, Tensor codes_MN, Tensor scale, TileShape tile);

// E5M6 codes are held in 16 bits, M * N of them in the order of x_MN; tiles are 1x128.
void quantize_e5m6(std::span<uint16_t> codes_MN, Tensor scale, Tensor x_MN);
void dequantize_e5m6(Tensor x_MN, std::span<const uint16_t> codes_MN, Tensor scale);

}  // namespace minke
