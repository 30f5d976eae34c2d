#include "tensor/scales.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"

namespace minke {
namespace {

// The least normal FP32: below it a scale would lose bits of its own.
constexpr float kLeastScale = std::numeric_limits<float>::min();
static_assert(kLeastScale == 0x1p-126F);

double power_of_two_at_or_above(double x) {
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);  // x = fraction * 2^exponent, in [0.5, 1)
  return std::ldexp(1.0, fraction == 0.5 ? exponent - 1 : exponent);
}

// Rows and columns of one tile of a matrix, and the index of its scale.
struct Tile {
  int64_t row_begin, row_end, col_begin, col_end, scale;
};

template <typename Body>
void for_each_tile(const Shape& matrix, TileShape tile, Body body) {
  const int64_t M = matrix[0], N = matrix[1];
  int64_t index = 0;
  for (int64_t i = 0; i < M; i += tile.rows) {
    for (int64_t j = 0; j < N; j += tile.cols) {
      body(Tile{i, std::min(M, i + tile.rows), j, std::min(N, j + tile.cols), index++});
    }
  }
}

float largest_magnitude(const float* x, int64_t N, const Tile& tile) {
  float amax = 0;
  for (int64_t i = tile.row_begin; i < tile.row_end; ++i) {
    for (int64_t j = tile.col_begin; j < tile.col_end; ++j) {
      const float value = x[i * N + j];
      if (!std::isfinite(value)) {
        fail("quantisation: row {}, column {} is {}, expected a finite number", i, j, value);
      }
      amax = std::max(amax, std::fabs(value));
    }
  }
  return amax;
}

void check_shapes(const Shape& matrix, const Shape& scale, TileShape tile) {
  MINKE_CHECK(scale == scale_shape(matrix, tile), "scales {} of a matrix {}", to_string(scale),
              to_string(matrix));
}

template <typename Code, typename ScaleOf, typename Encode>
void quantize(Code* codes, float* scale, const Tensor& x_MN, TileShape tile_shape, ScaleOf scale_of,
              Encode encode) {
  const auto* x = x_MN.data<float>();
  const int64_t N = x_MN.dim(1);
  for_each_tile(x_MN.shape(), tile_shape, [&](const Tile& tile) {
    const float s = scale_of(largest_magnitude(x, N, tile));
    scale[tile.scale] = s;
    for (int64_t i = tile.row_begin; i < tile.row_end; ++i) {
      for (int64_t j = tile.col_begin; j < tile.col_end; ++j) {
        codes[i * N + j] = encode(x[i * N + j] / s);
      }
    }
  });
}

template <typename Code, typename Decode>
void dequantize(const Tensor& x_MN, const Code* codes, const float* scale, TileShape tile_shape,
                Decode decode) {
  auto* x = x_MN.data<float>();
  const int64_t N = x_MN.dim(1);
  for_each_tile(x_MN.shape(), tile_shape, [&](const Tile& tile) {
    for (int64_t i = tile.row_begin; i < tile.row_end; ++i) {
      for (int64_t j = tile.col_begin; j < tile.col_end; ++j) {
        x[i * N + j] = decode(codes[i * N + j]) * scale[tile.scale];
      }
    }
  });
}

}  // namespace

Shape scale_shape(const Shape& matrix, TileShape tile) {
  MINKE_CHECK(matrix.rank() == 2 && tile.rows > 0 && tile.cols > 0, "{} in tiles of {}x{}",
              to_string(matrix), tile.rows, tile.cols);
  return {(matrix[0] + tile.rows - 1) / tile.rows, (matrix[1] + tile.cols - 1) / tile.cols};
}

float e4m3_scale(float amax, ScaleFormat format) {
  if (amax == 0) return 1;
  const float scale = std::max(amax / kMaxE4M3, kLeastScale);
  if (format == ScaleFormat::kF32) return scale;
  return static_cast<float>(power_of_two_at_or_above(scale));
}

float e5m6_scale(float amax) {
  if (amax == 0) return 1;
  // FP64 tells amax / 65024 from a power of two wherever amax, an FP32, does.
  const double scale = power_of_two_at_or_above(double{amax} / kMaxE5M6);
  return std::max(static_cast<float>(scale), kLeastScale);
}

void quantize_e4m3(Tensor codes_MN, Tensor scale, Tensor x_MN, TileShape tile, ScaleFormat format) {
  check_shapes(x_MN.shape(), scale.shape(), tile);
  MINKE_CHECK(codes_MN.dtype() == DType::kE4M3 && codes_MN.shape() == x_MN.shape());
  quantize(
      static_cast<uint8_t*>(codes_MN.raw()), scale.data<float>(), x_MN, tile,
      [format](float amax) { return e4m3_scale(amax, format); }, e4m3_encode);
}

void dequantize_e4m3(Tensor x_MN, Tensor codes_MN, Tensor scale, TileShape tile) {
  check_shapes(x_MN.shape(), scale.shape(), tile);
  MINKE_CHECK(codes_MN.dtype() == DType::kE4M3 && codes_MN.shape() == x_MN.shape());
  static const std::array<float, 256> kNumbers = [] {
    std::array<float, 256> out{};
    for (size_t code = 0; code < out.size(); ++code) {
      out[code] = e4m3_decode(static_cast<uint8_t>(code));
    }
    return out;
  }();
  dequantize(x_MN, static_cast<const uint8_t*>(codes_MN.raw()), scale.data<float>(), tile,
             [&](uint8_t code) { return kNumbers[code]; });
}

void quantize_e5m6(std::span<uint16_t> codes_MN, Tensor scale, Tensor x_MN) {
  check_shapes(x_MN.shape(), scale.shape(), kTile1x128);
  MINKE_CHECK(std::cmp_equal(codes_MN.size(), x_MN.count()));
  quantize(codes_MN.data(), scale.data<float>(), x_MN, kTile1x128, e5m6_scale, e5m6_encode);
}

void dequantize_e5m6(Tensor x_MN, std::span<const uint16_t> codes_MN, Tensor scale) {
  check_shapes(x_MN.shape(), scale.shape(), kTile1x128);
  MINKE_CHECK(std::cmp_equal(codes_MN.size(), x_MN.count()));
  dequantize(x_MN, codes_MN.data(), scale.data<float>(), kTile1x128, e5m6_decode);
}

}  // namespace minke
