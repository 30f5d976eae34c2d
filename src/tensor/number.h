// Number formats, exact and scalar: what every faster conversion must equal bit for bit.
//
// BF16: the upper half of an FP32, round to nearest even, subnormals kept.
// E4M3: sign, 4 exponent bits (bias 7), 3 mantissa bits, subnormals, no infinity, NaN = 0x7f/0xff,
//   largest 448; round to nearest even, saturating. (DeepSeek-V3 report, section 3.3)
// E5M6: sign, 5 exponent bits (bias 15), 6 mantissa bits, subnormals; exponent 31 is never
//   produced, so the largest is 65024; round to nearest even, saturating. Held in 16 bits.
#pragma once

#include <bit>
#include <cstdint>

namespace minke {

struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  // Nearest even; NaN stays NaN (quiet), overflow becomes infinity.
  explicit bf16(float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    if ((u & 0x7fffffffU) > 0x7f800000U) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40U);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
    }
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
  friend bool operator==(bf16, bf16) = default;
};
static_assert(sizeof(bf16) == 2);

// Unit roundoff: the largest relative error of rounding to nearest.
inline constexpr double kRoundoffF32 = 0x1p-24;
inline constexpr double kRoundoffBF16 = 0x1p-8;
inline constexpr double kRoundoffE4M3 = 0x1p-4;

inline constexpr float kMaxE4M3 = 448.0F;
inline constexpr float kMaxE5M6 = 65024.0F;

// x must be finite (MINKE_CHECK): a non-finite input is an error, never a code.
uint8_t e4m3_encode(float x);
float e4m3_decode(uint8_t code);
uint16_t e5m6_encode(float x);
float e5m6_decode(uint16_t code);

}  // namespace minke
