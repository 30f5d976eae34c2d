#include "ops/permute.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "ops/isa_test_fixture.h"

namespace minke::ops {
namespace {

class Permute : public EveryIsa {};
MINKE_ON_EVERY_ISA(Permute);

constexpr int64_t kTokens = 257, kRows = 8200, kCols = 1056;

// BF16 codes of every kind.
OwnedTensor codes() {
  OwnedTensor x(DType::kBF16, {kTokens, kCols});
  for (int64_t i = 0; i < x.count(); ++i) x.data<bf16>()[i].bits = static_cast<uint16_t>(i * 40503);
  return x;
}

// As many rows as are written past the caches: the bits of x, a signalling NaN's too.
TEST_P(Permute, GathersMoreThanACacheHolds) {
  const OwnedTensor x = codes(), token(DType::kI32, {kRows}), y(DType::kBF16, {kRows, kCols});
  for (int64_t r = 0; r < kRows; ++r) token.data<int32_t>()[r] = static_cast<int32_t>(r * 3 % 257);
  gather_rows(y, x, token);
  for (int64_t r = 0; r < kRows; ++r) {
    ASSERT_EQ(std::memcmp(y.rows(r, 1).raw(), x.rows(r * 3 % 257, 1).raw(), kCols * 2), 0) << r;
  }
}

// The same rows, and one number between them: not written past the caches.
TEST_P(Permute, CombinesMoreThanACacheHoldsAsItDoesLess) {
  constexpr int64_t kChoices = 3;
  OwnedTensor x(DType::kBF16, {kTokens, kCols});
  for (int64_t i = 0; i < x.count(); ++i) x.data<bf16>()[i] = bf16(static_cast<float>(i % 1013));
  const OwnedTensor row(DType::kI32, {kRows, kChoices});
  for (int64_t i = 0; i < row.count(); ++i) {
    row.data<int32_t>()[i] = static_cast<int32_t>(i * 7 % kTokens);
  }
  for (const DType format : {DType::kBF16, DType::kF32}) {
    const OwnedTensor y(format, {kRows, kCols}), apart(format, {kRows, kCols + 1});
    combine_rows(y, false, x, row);
    combine_rows(Matrix(apart).columns(0, kCols), false, x, row);
    for (int64_t r = 0; r < kRows; ++r) {
      const size_t bytes = kCols * size_of(format);
      ASSERT_EQ(std::memcmp(y.rows(r, 1).raw(), apart.rows(r, 1).raw(), bytes), 0) << r;
    }
  }
}

// Blocks of numbers that BF16 holds as normal ones, of such and zeros, of either and a subnormal,
// of subnormals: each is rounded to nearest even.
TEST_P(Permute, RoundsSubnormalsAmongOthers) {
  constexpr int64_t kNumbers = 300;
  const OwnedTensor x(DType::kF32, {kNumbers, kNumbers}), y(DType::kBF16, {kNumbers, kNumbers});
  const OwnedTensor row(DType::kI32, {kNumbers, 1});
  for (int64_t r = 0; r < kNumbers; ++r) {
    row.data<int32_t>()[r] = static_cast<int32_t>(r);
    for (int64_t i = 0; i < kNumbers; ++i) {
      const auto bits = static_cast<uint32_t>(r * kNumbers + i + 1) * 2654435761U;
      const bool zero = r % 4 == 1 && i % 3 == 0, subnormal = r % 4 == 3 || (r % 4 == 2 && i == r);
      x.rows(r, 1).data<float>()[i] =
          zero        ? 0.0F
          : subnormal ? std::bit_cast<float>(bits & 0x807fffffU)
                      : std::bit_cast<float>((bits & 0x807fffffU) | 0x3f800000U);
    }
  }
  combine_rows(y, false, x, row);
  for (int64_t i = 0; i < x.count(); ++i) {
    ASSERT_EQ(y.data<bf16>()[i].bits, bf16(x.data<float>()[i]).bits) << i;
  }
}

}  // namespace
}  // namespace minke::ops
