#include "base/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <set>

namespace minke {
namespace {

// The known answers that the authors of Philox publish (Random123, kat_vectors).
TEST(Philox, KnownAnswers) {
  constexpr uint32_t kOnes = 0xffffffff;
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, AStreamIsPhiloxOfItsKeyAndPosition) {
  constexpr uint64_t kKey = 0x0123456789abcdef;
  Rng rng(kKey);
  for (uint32_t block = 0; block < 3; ++block) {
    for (const uint32_t word : philox4x32_10({block, 0, 0, 0}, {0x89abcdef, 0x01234567})) {
      EXPECT_EQ(rng.next_u32(), word);
    }
  }
  // Past 2^32 blocks the upper word counts.
  Rng far(kKey, (uint64_t{7} << 32) + 5);
  EXPECT_EQ(far.next_u32(), (philox4x32_10({5, 7, 0, 0}, {0x89abcdef, 0x01234567})[0]));
}

TEST(Rng, AStreamCanBeEnteredAnywhere) {
  Rng whole(42);
  for (int word = 0; word < 4 * 1000; ++word) whole.next_u32();
  Rng later(42, 1000);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(later.next_u64(), whole.next_u64());
}

TEST(Rng, AWordOf64BitsIsTwoOf32HighFirst) {
  Rng a(1), b(1);
  const uint64_t high = a.next_u32(), low = a.next_u32();
  EXPECT_EQ(b.next_u64(), high << 32 | low);
}

TEST(Rng, StreamsDifferBySeedStepAndName) {
  std::set<uint64_t> keys;
  for (const uint64_t seed : {0, 1}) {
    for (const uint64_t step : {0, 1}) {
      for (const char* what : {"", "a", "b", "ab"}) keys.insert(stream_key(seed, step, what));
    }
  }
  EXPECT_EQ(keys.size(), 16U);
  EXPECT_EQ(stream_key(1, 2, "embed"), stream_key(1, 2, "embed"));
}

// The stream is fixed, so this cannot fail by chance; six standard errors of the mean of n draws.
TEST(Rng, UniformHasItsMoments) {
  constexpr int kDraws = 100000;
  Rng rng(7);
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = rng.uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  const double six_errors = 6 / std::sqrt(kDraws);
  EXPECT_NEAR(sum / kDraws, 0.5, six_errors * std::sqrt(1.0 / 12));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, six_errors * std::sqrt(4.0 / 45));
}

TEST(Rng, NormalHasItsMoments) {
  constexpr int kDraws = 100000;
  Rng rng(8);
  double sum = 0, squares = 0, fourths = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
    fourths += x * x * x * x;
  }
  const double six_errors = 6 / std::sqrt(kDraws);
  // Variances of x, x^2 and x^4 of a standard normal: 1, 2, 96.
  EXPECT_NEAR(sum / kDraws, 0, six_errors);
  EXPECT_NEAR(squares / kDraws, 1, six_errors * std::sqrt(2));
  EXPECT_NEAR(fourths / kDraws, 3, six_errors * std::sqrt(96));
}

TEST(Rng, BelowIsInRangeAndUnbiased) {
  Rng rng(9);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(rng.below(1), 0U);

  constexpr int kDraws = 60000, kSides = 6;
  std::array<int, kSides> counts{};
  for (int i = 0; i < kDraws; ++i) ++counts.at(rng.below(kSides));
  const double p = 1.0 / kSides;
  for (const int count : counts) {
    EXPECT_NEAR(count, kDraws * p, 6 * std::sqrt(kDraws * p * (1 - p)));
  }

  // Half of all words must be thrown away here: a plain remainder would favour the lower third.
  constexpr uint64_t kHuge = (uint64_t{3} << 62) + 1;
  int lower = 0;
  for (int i = 0; i < kDraws; ++i) {
    const uint64_t x = rng.below(kHuge);
    ASSERT_LT(x, kHuge);
    lower += x < kHuge / 3 ? 1 : 0;
  }
  EXPECT_NEAR(lower, kDraws / 3.0, 6 * std::sqrt(kDraws * 2.0 / 9));
}

}  // namespace
}  // namespace minke
