// Scales and codes against the goldens of an independent quantiser, bit for bit, and what the
// goldens do not hold: the edges of the definition.
#include "tensor/scales.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "tensor/golden_file.h"

namespace minke {
namespace {

using testing::HasSubstr;

// Equal bits: a NaN or a zero of the other sign would not do.
void expect_same_bits(const float* got, const float* expected, size_t count,
                      const std::string& what) {
  for (size_t i = 0; i < count; ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i]))
        << what << " at " << i << ": " << got[i] << ", expected " << expected[i];
  }
}

struct Case {
  std::string name;    // of the goldens
  std::string source;  // the matrix they are made from
  TileShape tile;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }  // NOLINT: gtest's name

class E4M3Scales : public testing::TestWithParam<Case> {};

TEST_P(E4M3Scales, CodesAndScalesEqualTheGoldens) {
  const Case& c = GetParam();
  const Tensor x = goldens().at(c.source);
  for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
    const std::string name = c.name + (format == ScaleFormat::kF32 ? "" : "_pow2");
    const Tensor codes = goldens().at(name + ".codes"), scale = goldens().at(name + ".scale_inv");
    OwnedTensor got_codes(DType::kE4M3, x.shape());
    OwnedTensor got_scale(DType::kF32, scale_shape(x.shape(), c.tile));
    quantize_e4m3(got_codes, got_scale, x, c.tile, format);
    ASSERT_EQ(got_scale.shape(), scale.shape()) << name;
    expect_same_bits(got_scale.data<float>(), scale.data<float>(),
                     static_cast<size_t>(scale.count()), name + " scale");
    for (int64_t i = 0; i < codes.count(); ++i) {
      ASSERT_EQ(static_cast<const uint8_t*>(got_codes.raw())[i], codes.data<uint8_t>()[i])
          << name << " code " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, E4M3Scales,
                         testing::Values(Case{"x_1x128", "x", kTile1x128},
                                         Case{"x_128x1", "x", kTile128x1},
                                         Case{"w_128x128", "w", kBlock128x128},
                                         Case{"dy_1x128", "dy", kTile1x128},
                                         Case{"dy_128x1", "dy", kTile128x1}),
                         [](const auto& c) { return c.param.name; });

TEST(E5M6Scales, CodesAndScalesEqualTheGoldens) {
  const Tensor x = goldens().at("x"), codes = goldens().at("x_e5m6.codes"),
               scale = goldens().at("x_e5m6.scale_inv");
  std::vector<uint16_t> got(static_cast<size_t>(x.count()));
  OwnedTensor got_scale(DType::kF32, scale_shape(x.shape(), kTile1x128));
  quantize_e5m6(got, got_scale, x);
  expect_same_bits(got_scale.data<float>(), scale.data<float>(), static_cast<size_t>(scale.count()),
                   "scale");
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], codes.data<int32_t>()[i]) << i;
}

// A row of numbers through E4M3 and back.
std::vector<float> there_and_back(std::vector<float> row, ScaleFormat format) {
  const Shape shape{1, static_cast<int64_t>(row.size())};
  const Tensor x(row.data(), shape);
  OwnedTensor codes(DType::kE4M3, shape), scale(DType::kF32, scale_shape(shape, kTile1x128));
  quantize_e4m3(codes, scale, x, kTile1x128, format);
  dequantize_e4m3(x, codes, scale, kTile1x128);
  return row;
}

// An amax floor (1e-4 in a widely used helper) would flush all of these to zero.
TEST(E4M3Scales, TinyTilesKeepTheirRelativePrecision) {
  for (const float amax : {1e-9F, 1e-20F, 1e-30F}) {
    const std::vector<float> row = {amax, -amax / 2, amax / 3, -amax / 7, amax / 60};
    for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
      const std::vector<float> back = there_and_back(row, format);
      for (size_t i = 0; i < row.size(); ++i) {
        // All are at least amax / 60, so with the scale at most 2 amax / 448 they are normal E4M3
        // numbers: one rounding to four bits, and three FP32 roundings that 1 % more than covers.
        EXPECT_NEAR(back[i], row[i], std::fabs(row[i]) * kRoundoffE4M3 * 1.01) << amax << " " << i;
      }
    }
  }
}

TEST(E4M3Scales, ZeroTileHasScaleOne) {
  for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
    EXPECT_EQ(e4m3_scale(0, format), 1.0F);
  }
  EXPECT_EQ(e5m6_scale(0), 1.0F);
  EXPECT_THAT(there_and_back({0.0F, -0.0F}, ScaleFormat::kF32), testing::Each(0.0F));
}

TEST(E4M3Scales, NoScaleIsBelowTheLeastNormalNumber) {
  constexpr float kLeast = 0x1p-126F, kTiny = std::numeric_limits<float>::denorm_min();
  for (const float amax : {kTiny, kLeast, 447 * kLeast}) {
    EXPECT_EQ(e4m3_scale(amax, ScaleFormat::kF32), kLeast) << amax;
    EXPECT_EQ(e4m3_scale(amax, ScaleFormat::kPowerOfTwo), kLeast) << amax;
    EXPECT_EQ(e5m6_scale(amax), kLeast) << amax;
  }
  EXPECT_GT(e4m3_scale(449 * kLeast, ScaleFormat::kF32), kLeast);
  EXPECT_EQ(e4m3_scale(449 * kLeast, ScaleFormat::kPowerOfTwo), 2 * kLeast);
}

TEST(E4M3Scales, PowerOfTwoIsTheLeastThatHoldsTheTile) {
  EXPECT_EQ(e4m3_scale(448, ScaleFormat::kPowerOfTwo), 1.0F);
  EXPECT_EQ(e4m3_scale(std::nextafter(448.0F, 1e9F), ScaleFormat::kPowerOfTwo), 2.0F);
  EXPECT_EQ(e4m3_scale(224, ScaleFormat::kPowerOfTwo), 0.5F);
  EXPECT_EQ(e5m6_scale(65024), 1.0F);
  EXPECT_EQ(e5m6_scale(std::nextafter(65024.0F, 1e9F)), 2.0F);
  const float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(e4m3_scale(largest, ScaleFormat::kPowerOfTwo), 0x1p120F);
  EXPECT_EQ(e5m6_scale(largest), 0x1p113F);
}

TEST(E4M3Scales, NonFiniteInputIsAnErrorThatSaysWhere) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(3 * 200, 1.0F);
    x[2 * 200 + 130] = bad;
    const Tensor x_MN(x.data(), Shape{3, 200});
    OwnedTensor codes(DType::kE4M3, x_MN.shape());
    std::vector<uint16_t> wide(x.size());
    for (const TileShape tile : {kTile1x128, kTile128x1, kBlock128x128}) {
      OwnedTensor scale(DType::kF32, scale_shape(x_MN.shape(), tile));
      EXPECT_THAT([&] { quantize_e4m3(codes, scale, x_MN, tile, ScaleFormat::kF32); },
                  testing::ThrowsMessage<Error>(HasSubstr("row 2, column 130")));
    }
    OwnedTensor scale(DType::kF32, scale_shape(x_MN.shape(), kTile1x128));
    EXPECT_THAT([&] { quantize_e5m6(wide, scale, x_MN); },
                testing::ThrowsMessage<Error>(HasSubstr("row 2, column 130")));
  }
}

// Each number knows its own tile: the scales of the partial tiles at the edges are 1/448 of theirs.
TEST(E4M3Scales, PartialTilesAtEveryEdge) {
  for (const int64_t M : {1, 127, 128, 129}) {
    for (const int64_t N : {1, 127, 128, 129, 257}) {
      for (const TileShape tile : {kTile1x128, kTile128x1, kBlock128x128}) {
        const Shape shape{M, N};
        OwnedTensor x(DType::kF32, shape), codes(DType::kE4M3, shape);
        OwnedTensor scale(DType::kF32, scale_shape(shape, tile)), back(DType::kF32, shape);
        const auto at_scale = [&](int64_t i, int64_t j) {
          return i / tile.rows * scale.dim(1) + j / tile.cols;
        };
        for (int64_t i = 0; i < M; ++i) {
          for (int64_t j = 0; j < N; ++j) {
            x.data<float>()[i * N + j] = 448.0F * static_cast<float>(1 + at_scale(i, j));
          }
        }
        quantize_e4m3(codes, scale, x, tile, ScaleFormat::kF32);
        for (int64_t k = 0; k < scale.count(); ++k) {
          ASSERT_EQ(scale.data<float>()[k], static_cast<float>(1 + k));
        }
        dequantize_e4m3(back, codes, scale, tile);
        expect_same_bits(back.data<float>(), x.data<float>(), static_cast<size_t>(x.count()),
                         to_string(shape));
      }
    }
  }
}

TEST(E5M6Scales, ThereAndBackIsWithinHalfAStep) {
  const Tensor x = goldens().at("x");
  std::vector<uint16_t> codes(static_cast<size_t>(x.count()));
  OwnedTensor scale(DType::kF32, scale_shape(x.shape(), kTile1x128));
  OwnedTensor back(DType::kF32, x.shape());
  quantize_e5m6(codes, scale, x);
  dequantize_e5m6(back, codes, scale);
  for (int64_t i = 0; i < x.count(); ++i) {
    const float value = x.data<float>()[i];
    const float s = scale.data<float>()[i / 320 * 3 + i % 320 / 128];
    // Seven bits, or half a subnormal step; scaling by a power of two is exact.
    const double bound = std::max(std::fabs(value) * 0x1p-7, s * 0x1p-21);
    ASSERT_NEAR(back.data<float>()[i], value, bound) << i;
  }
}

}  // namespace
}  // namespace minke
