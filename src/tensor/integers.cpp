#include "tensor/integers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace minke {
namespace {

constexpr float kLeastIntScale = std::numeric_limits<float>::min();
constexpr int kOffset = 8;  // of codes of 4 bits

struct Span {
  int64_t row, begin, end;  // numbers [begin, end) of the row
  int64_t scale;            // its index
};

template <typename Body>
void for_each_block(const Shape& matrix, int64_t block, Body&& body) {
  int64_t index = 0;
  for (int64_t row = 0; row < matrix[0]; ++row) {
    for (int64_t begin = 0; begin < matrix[1]; begin += block) {
      body(Span{row, begin, std::min(matrix[1], begin + block), index++});
    }
  }
}

// The first number of the largest magnitude.
float largest(const float* x, const Span& span) {
  float out = 0;
  for (int64_t i = span.begin; i < span.end; ++i) {
    if (!std::isfinite(x[i])) {
      fail("quantisation: row {}, column {} is {}, expected a finite number", span.row, i, x[i]);
    }
    if (std::fabs(x[i]) > std::fabs(out)) out = x[i];
  }
  return out;
}

float int4_scale(float most) {
  if (most == 0) return 1;
  const float scale = most / -8.0F;
  return std::copysign(std::max(std::fabs(scale), kLeastIntScale), scale);
}

void check_shapes(const Tensor& x_MN, const Tensor& codes, const Tensor& scale) {
  MINKE_CHECK(codes.shape() == int_codes_shape(x_MN.shape(), codes.dtype()) &&
                  scale.shape() == int_scale_shape(x_MN.shape(), codes.dtype()),
              "codes {} and scales {} of a matrix {}", to_string(codes.shape()),
              to_string(scale.shape()), to_string(x_MN.shape()));
}

}  // namespace

int64_t int_block(DType format) {
  MINKE_CHECK(is_integers(format), "{}", name_of(format));
  return format == DType::kI8 ? kInt8Block : kInt4Block;
}

Shape int_codes_shape(const Shape& matrix, DType format) {
  MINKE_CHECK(matrix.rank() == 2 && is_integers(format));
  return {matrix[0], format == DType::kI8 ? matrix[1] : (matrix[1] + 1) / 2};
}

Shape int_scale_shape(const Shape& matrix, DType format) {
  const int64_t block = int_block(format);
  return {matrix[0], (matrix[1] + block - 1) / block};
}

float int8_scale(float amax) { return amax == 0 ? 1 : std::max(amax / 127.0F, kLeastIntScale); }

void quantize_integers(Tensor codes, Tensor scale, Tensor x_MN) {
  check_shapes(x_MN, codes, scale);
  const bool four_bits = codes.dtype() == DType::kU8;
  const int64_t stride = codes.dim(1);
  auto* code = static_cast<uint8_t*>(codes.raw());
  if (four_bits) std::fill_n(code, codes.count(), uint8_t{kOffset | kOffset << 4});
  for_each_block(x_MN.shape(), int_block(codes.dtype()), [&](const Span& span) {
    const float* x = x_MN.data<float>() + span.row * x_MN.dim(1);
    const float most = largest(x, span);
    const bf16 stored(four_bits ? int4_scale(most) : int8_scale(std::fabs(most)));
    scale.data<bf16>()[span.scale] = stored;
    for (int64_t i = span.begin; i < span.end; ++i) {
      const float nearest = std::nearbyint(x[i] / static_cast<float>(stored));
      if (four_bits) {
        const int value = static_cast<int>(std::clamp(nearest, -8.0F, 7.0F)) + kOffset;
        uint8_t& byte = code[span.row * stride + i / 2];
        byte =
            static_cast<uint8_t>(i % 2 == 0 ? (byte & 0xf0) | value : (byte & 0x0f) | value << 4);
      } else {
        code[span.row * stride + i] =
            static_cast<uint8_t>(static_cast<int>(std::clamp(nearest, -127.0F, 127.0F)));
      }
    }
  });
}

void dequantize_integers(Tensor x_MN, Tensor codes, Tensor scale) {
  check_shapes(x_MN, codes, scale);
  const bool four_bits = codes.dtype() == DType::kU8;
  const auto* code = static_cast<const uint8_t*>(codes.raw());
  for_each_block(x_MN.shape(), int_block(codes.dtype()), [&](const Span& span) {
    const auto s = static_cast<float>(scale.data<bf16>()[span.scale]);
    for (int64_t i = span.begin; i < span.end; ++i) {
      const uint8_t byte = code[span.row * codes.dim(1) + (four_bits ? i / 2 : i)];
      const int value = four_bits ? (byte >> (i % 2 * 4) & 0xf) - kOffset
                                  : static_cast<int>(static_cast<int8_t>(byte));
      x_MN.data<float>()[span.row * x_MN.dim(1) + i] = static_cast<float>(value) * s;
    }
  });
}

}  // namespace minke
