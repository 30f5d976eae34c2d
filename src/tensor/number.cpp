#include "tensor/number.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace minke {
namespace {

// Rounds |x| to a format of `mantissa` bits whose least exponent is `least`, nearest even, and
// returns the code of the magnitude: exponent field above mantissa, subnormals first.
uint32_t encode_magnitude(float magnitude, int mantissa, int least) {
  if (magnitude == 0.0F) return 0;
  int exponent = 0;
  std::frexp(magnitude, &exponent);                 // magnitude = f * 2^exponent, f in [0.5, 1)
  const int scale = std::max(exponent - 1, least);  // 2^scale <= magnitude, or subnormal
  // Exact: a power of two. nearbyint rounds to nearest even (the default mode, never changed).
  const auto steps =
      static_cast<uint32_t>(std::nearbyint(std::ldexp(double{magnitude}, mantissa - scale)));
  // A normal number has steps in [2^m, 2^(m+1)]; the carry into the exponent adds up by itself.
  return (static_cast<uint32_t>(scale - least) << mantissa) + steps;
}

float decode_magnitude(uint32_t code, int mantissa, int least) {
  const uint32_t field = code >> mantissa, low = code & ((1U << mantissa) - 1);
  const uint32_t steps = field == 0 ? low : low + (1U << mantissa);
  const int scale = least + (field == 0 ? 0 : static_cast<int>(field) - 1);
  return static_cast<float>(std::ldexp(static_cast<double>(steps), scale - mantissa));
}

}  // namespace

uint8_t e4m3_encode(float x) {
  MINKE_CHECK(std::isfinite(x), "E4M3 of a non-finite number");
  const uint32_t code = encode_magnitude(std::min(std::fabs(x), kMaxE4M3), 3, -6);
  return static_cast<uint8_t>(code | (std::signbit(x) ? 0x80U : 0U));
}

float e4m3_decode(uint8_t code) {
  if ((code & 0x7f) == 0x7f) return std::copysign(NAN, (code & 0x80) != 0 ? -1.0F : 1.0F);
  const float magnitude = decode_magnitude(code & 0x7fU, 3, -6);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

uint16_t e5m6_encode(float x) {
  MINKE_CHECK(std::isfinite(x), "E5M6 of a non-finite number");
  const uint32_t code = encode_magnitude(std::min(std::fabs(x), kMaxE5M6), 6, -14);
  return static_cast<uint16_t>(code | (std::signbit(x) ? 0x800U : 0U));
}

float e5m6_decode(uint16_t code) {
  const float magnitude = decode_magnitude(code & 0x7ffU, 6, -14);
  return (code & 0x800) != 0 ? -magnitude : magnitude;
}

}  // namespace minke
