// Number formats: every code, every rounding that can go wrong, and the golden codes, bit for bit.
#include "tensor/number.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "tensor/golden_file.h"

namespace minke {
namespace {

uint32_t bits(float x) { return std::bit_cast<uint32_t>(x); }
float from_bits(uint32_t u) { return std::bit_cast<float>(u); }

// Nearest of the two BF16 neighbours by exact arithmetic on the lower half, even at the tie.
uint16_t bf16_by_definition(uint32_t u) {
  const uint32_t upper = u >> 16, lower = u & 0xffffU;
  const bool up = lower > 0x8000U || (lower == 0x8000U && (upper & 1U) != 0);
  return static_cast<uint16_t>(upper + (up ? 1 : 0));
}

TEST(BF16, RoundsToNearestEvenForEveryUpperHalf) {
  for (uint32_t upper = 0; upper < 0x10000U; ++upper) {
    if ((upper & 0x7f80U) == 0x7f80U) continue;  // infinities and NaN: below
    for (const uint32_t lower : {0U, 1U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      const uint32_t u = upper << 16 | lower;
      ASSERT_EQ(bf16(from_bits(u)).bits, bf16_by_definition(u)) << std::hex << u;
    }
  }
}

TEST(BF16, EveryCodeSurvivesTheWayThroughF32) {
  for (uint32_t code = 0; code < 0x10000U; ++code) {
    bf16 x;
    x.bits = static_cast<uint16_t>(code);
    const auto wide = static_cast<float>(x);
    ASSERT_EQ(bits(wide), code << 16);
    if (std::isnan(wide)) continue;
    ASSERT_EQ(bf16(wide).bits, code);
  }
}

TEST(BF16, InfinityOverflowAndNaN) {
  EXPECT_EQ(bf16(INFINITY).bits, 0x7f80);
  EXPECT_EQ(bf16(-INFINITY).bits, 0xff80);
  EXPECT_EQ(bf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(bf16(from_bits(0x7f7f7fffU)).bits, 0x7f7f);  // just below the tie with infinity
  // A NaN whose upper half alone would read as infinity must stay a NaN.
  for (const uint32_t u : {0x7f800001U, 0xff800001U, 0x7fffffffU, 0x7fc00000U}) {
    EXPECT_TRUE(std::isnan(static_cast<float>(bf16(from_bits(u))))) << std::hex << u;
  }
}

TEST(BF16, SubnormalsAreKept) {
  EXPECT_EQ(bf16(0x1p-133F).bits, 1);
  EXPECT_EQ(bf16(std::numeric_limits<float>::denorm_min()).bits, 0);
  EXPECT_EQ(bf16(-0.0F).bits, 0x8000);
}

TEST(E4M3, EveryCodeDecodesToTheTable) {
  const Tensor table = goldens().at("e4m3.table");
  ASSERT_EQ(table.count(), 256);
  for (int code = 0; code < 256; ++code) {
    const float got = e4m3_decode(static_cast<uint8_t>(code)), expected = table.data<float>()[code];
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(got)) << code;
    } else {
      EXPECT_EQ(bits(got), bits(expected)) << code;
    }
  }
}

TEST(E4M3, EncodesTheGoldenInputs) {
  const Tensor input = goldens().at("e4m3.input"), codes = goldens().at("e4m3.codes");
  for (int64_t i = 0; i < input.count(); ++i) {
    ASSERT_EQ(e4m3_encode(input.data<float>()[i]), codes.data<uint8_t>()[i])
        << input.data<float>()[i];
  }
}

// What rounding to nearest even means between two neighbours, for a format given by its decoder:
// `last` is the largest code of a positive number.
template <typename Decode, typename Encode>
void expect_nearest_even(uint32_t last, uint32_t sign, Decode decode, Encode encode) {
  for (uint32_t code = 0; code <= last; ++code) {
    const float here = decode(code);
    ASSERT_EQ(encode(here), code);
    ASSERT_EQ(encode(-here), code | sign);
    if (code == last) break;
    const float above = decode(code + 1);
    const float middle = here + (above - here) / 2;  // exact: one bit more than the format has
    ASSERT_EQ(encode(middle), code % 2 == 0 ? code : code + 1) << middle;
    ASSERT_EQ(encode(std::nextafter(middle, here)), code) << middle;
    ASSERT_EQ(encode(std::nextafter(middle, above)), code + 1) << middle;
    ASSERT_EQ(encode(-std::nextafter(middle, above)), (code + 1) | sign) << middle;
  }
  const float largest = decode(last);
  for (const float beyond :
       {std::nextafter(largest, INFINITY), 2 * largest, std::numeric_limits<float>::max()}) {
    EXPECT_EQ(encode(beyond), last) << beyond;
    EXPECT_EQ(encode(-beyond), last | sign) << beyond;
  }
}

TEST(E4M3, NearestEvenBetweenAllNeighbours) {
  expect_nearest_even(
      0x7e, 0x80, [](uint32_t code) { return e4m3_decode(static_cast<uint8_t>(code)); },
      e4m3_encode);
  EXPECT_EQ(e4m3_decode(0x7e), kMaxE4M3);
}

TEST(E5M6, EveryCodeDecodesToTheTable) {
  const Tensor table = goldens().at("e5m6.table");
  ASSERT_EQ(table.count(), 31 * 64);  // exponent 31 is never produced
  for (uint32_t code = 0; code < 31 * 64; ++code) {
    const float expected = table.data<float>()[code];
    ASSERT_EQ(bits(e5m6_decode(static_cast<uint16_t>(code))), bits(expected)) << code;
    ASSERT_EQ(bits(e5m6_decode(static_cast<uint16_t>(code | 0x800U))), bits(-expected)) << code;
  }
}

TEST(E5M6, NearestEvenBetweenAllNeighbours) {
  expect_nearest_even(
      31 * 64 - 1, 0x800, [](uint32_t code) { return e5m6_decode(static_cast<uint16_t>(code)); },
      e5m6_encode);
  EXPECT_EQ(e5m6_decode(31 * 64 - 1), kMaxE5M6);
}

// The quantiser refuses what is not finite; one that forgets must not go on with some code.
TEST(NumberDeathTest, NonFiniteIsNeverACode) {
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    EXPECT_DEATH(e4m3_encode(bad), "non-finite");
    EXPECT_DEATH(e5m6_encode(bad), "non-finite");
  }
}

}  // namespace
}  // namespace minke
