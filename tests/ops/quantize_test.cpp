// Quantisation and the three products of a linear layer against the goldens of FP8.
#include "ops/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"
#include "isa_test_fixture.h"
#include "ops/quantize_counts.h"
#include "tensor/golden_file.h"

namespace minke::ops {
namespace {

const GoldenFile& golden() {
  static const GoldenFile file(MINKE_GOLDEN_DIR "/fp8/fp8.safetensors");
  return file;
}

class Fp8Golden : public EveryIsa {};
MINKE_ON_EVERY_ISA(Fp8Golden);

TEST_P(Fp8Golden, CodesAndScalesOfTilesAreEqual) {
  for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
    const std::string suffix = format == ScaleFormat::kF32 ? "" : "_pow2";
    for (const std::string name : {"x", "dy"}) {
      const Tensor x = golden().at(name);
      const std::string tiles = name + std::string("_1x128").append(suffix);
      const Tensor codes = golden().at(tiles + ".codes");
      const Tensor scale = golden().at(tiles + ".scale_inv");
      const OwnedTensor got(DType::kE4M3, x.shape()), got_scale(DType::kF32, scale.shape());
      quantize_rows(got, got_scale, x, 0, format);
      EXPECT_EQ(std::memcmp(got.raw(), codes.raw(), codes.bytes()), 0) << name << suffix;
      EXPECT_EQ(std::memcmp(got_scale.raw(), scale.raw(), scale.bytes()), 0) << name << suffix;
    }
  }
}

// A weight's codes in both packed orders, and the products they give.
struct Operands {
  OwnedTensor scale, by_rows, by_columns;
  Packed fprop, dgrad;
};
Operands operands(const Tensor& w, ScaleFormat format) {
  const int64_t N = w.dim(0), K = w.dim(1);
  const auto memory = [](int64_t n, int64_t k) {
    return OwnedTensor(DType::kU8, {static_cast<int64_t>(packed_bytes(DType::kE4M3, n, k))});
  };
  Operands out{OwnedTensor(DType::kF32, scale_shape(w.shape(), kBlock128x128)),
               memory(N, K),
               memory(K, N),
               {},
               {}};
  auto* scale = out.scale.data<float>();
  const int64_t across = out.scale.dim(1);
  out.fprop = {
      static_cast<std::byte*>(out.by_rows.raw()), DType::kE4M3, N, K, {scale, 128, across, 1}};
  out.dgrad = {
      static_cast<std::byte*>(out.by_columns.raw()), DType::kE4M3, K, N, {scale, 128, 1, across}};
  const QuantizeJob job{{out.fprop, out.dgrad, 0, scale, format}, w};
  quantize_weights(std::span(&job, 1));
  return out;
}

TEST_P(Fp8Golden, ScalesOfBlocksAreEqual) {
  for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
    const Tensor want = golden().at(format == ScaleFormat::kF32 ? "w_128x128.scale_inv"
                                                                : "w_128x128_pow2.scale_inv");
    const Operands w = operands(golden().at("w"), format);
    EXPECT_EQ(std::memcmp(w.scale.raw(), want.raw(), want.bytes()), 0);
  }
}

// Sums in FP32 of at most 128 numbers, two scalings, and a sum of blocks: beside the norm of what
// is summed, their error is below that of the longest of these sums.
void expect_product(const Tensor& got, const Tensor& want, int64_t k) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < want.count(); ++i) {
    const double w = double{want.data<float>()[i]}, g = double{got.data<float>()[i]};
    error += (g - w) * (g - w);
    norm += w * w;
  }
  const double terms = 128 + 4 + std::ceil(static_cast<double>(k) / 128);
  EXPECT_LE(std::sqrt(error / norm), terms * kRoundoffF32);
}

TEST_P(Fp8Golden, TheThreeProductsAreWithinTheirBound) {
  const Tensor x = golden().at("x"), w = golden().at("w"), dy = golden().at("dy");
  const int64_t M = x.dim(0), K = x.dim(1), N = w.dim(0);
  const Operands weight = operands(w, ScaleFormat::kF32);
  Arena scratch(size_t{1} << 24);
  const QuantizedLeft left = quantize_left(scratch, x, {0, ScaleFormat::kF32});
  const QuantizedLeft d_left = quantize_left(scratch, dy, {0, ScaleFormat::kF32});
  OwnedTensor y(DType::kF32, {M, N}), dx(DType::kF32, {M, K}), dw(DType::kF32, {N, K});
  matmul({y, left.numbers, weight.fprop, false, left.scales});
  matmul({dx, d_left.numbers, weight.dgrad, false, d_left.scales});
  const WeightGradient gradient{dw, dy, x, false};
  matmul_wgrad_fp8(std::span(&gradient, 1), {}, scratch);
  expect_product(y, golden().at("fprop"), K);
  expect_product(dx, golden().at("dgrad"), N);
  expect_product(dw, golden().at("wgrad"), M);
}

// A product that quantises its left side gives the bytes of one whose left side was quantised
// before: for every edge of rows, tiles and segments, and where several parts of a product read the
// same rows.
TEST_P(Fp8Golden, ProductsQuantiseTheirLeftSideAsIfItHadBeenBefore) {
  Arena scratch(size_t{1} << 24);
  Rng rng(stream_key(1, 0, "left"));
  const auto random = [&](int64_t rows, int64_t cols) {
    OwnedTensor x(DType::kF32, {rows, cols});
    for (float& v : x.span<float>()) v = static_cast<float>(std::exp(2 * rng.normal()));
    return x;
  };
  for (const DType source : {DType::kF32, DType::kBF16}) {
    for (const int64_t M : {1, 9, 129, 300}) {
      for (const auto& [columns, segment] :
           std::vector<std::pair<int64_t, int64_t>>{{70, 0}, {300, 0}, {352, 176}, {262, 131}}) {
        const int64_t K = left_columns(columns, segment), N = 600;
        const OwnedTensor x = random(M, columns), w = random(N, K);
        Operands weight = operands(w, ScaleFormat::kF32);
        Packed right = weight.fprop;
        if (segment > 0) {
          // As stacked weights have them: blocks of the sum begin anew.
          right.segment = K / 2;
          right.scales = {weight.scale.data<float>(), 128, 1, 0};
        }
        for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
          const Arena::Scope scope(scratch);
          const Matrix left = prepare(scratch, x, source);
          const LeftTiles tiles{segment, format};
          const QuantizedLeft before = quantize_left(scratch, left, tiles);
          OwnedTensor want(DType::kF32, {M, N}), got(DType::kF32, {M, N});
          matmul({want, before.numbers, right, false, before.scales});
          matmul({got, left, right, false, {}, tiles});
          EXPECT_EQ(std::memcmp(got.raw(), want.raw(), want.bytes()), 0)
              << M << " x " << columns << " in " << segment;
        }
      }
    }
  }
}

TEST_P(Fp8Golden, WhatProductsQuantiseIsCountedOnce) {
  const Tensor x = golden().at("x");
  const int64_t M = x.dim(0), K = x.dim(1), N = golden().at("w").dim(0);
  const Operands weight = operands(golden().at("w"), ScaleFormat::kF32);
  Arena scratch(size_t{1} << 24);
  OwnedTensor y(DType::kF32, {M, N}), z(DType::kF32, {M, N});
  const auto counts = [&](auto&& body) {
    start_quantize_counts();
    body();
    return finish_quantize_counts();
  };
  const auto want = counts([&] { quantize_left(scratch, x, {}); });
  const auto got = counts([&] {
    const QuantizingAs kind("gradients");
    const Product products[] = {{y, x, weight.fprop, false, {}, LeftTiles{}},
                                {z, x, weight.fprop, false, {}, LeftTiles{}}};
    matmul(products);
  });
  ASSERT_EQ(want.size(), 1U);
  ASSERT_EQ(got.size(), 1U);
  EXPECT_EQ(got[0].kind, "gradients");
  EXPECT_EQ(want[0].numbers, M * K);
  EXPECT_EQ(got[0].numbers, want[0].numbers);
  EXPECT_EQ(got[0].saturated, want[0].saturated);
  EXPECT_EQ(got[0].underflowed, want[0].underflowed);
  EXPECT_EQ(got[0].least_scale, want[0].least_scale);
  EXPECT_EQ(got[0].largest_scale, want[0].largest_scale);
}

const QuantizeCounts& of_kind(const std::vector<QuantizeCounts>& counts, std::string_view kind) {
  const auto found = std::ranges::find(counts, kind, &QuantizeCounts::kind);
  MINKE_CHECK(found != counts.end(), "nothing of {}", kind);
  return *found;
}

// Tiles of 128x1 with a number each that is the largest, one that is lost, and a scale that is
// known.
TEST_P(Fp8Golden, WhatWgradQuantisesIsCounted) {
  constexpr int64_t kTokens = 200, kColumns = 40;  // two tiles along the tokens, two panels
  Arena scratch(size_t{1} << 22);
  OwnedTensor dy(DType::kF32, {kTokens, kColumns}), x(DType::kF32, {kTokens, kColumns});
  OwnedTensor dw(DType::kF32, {kColumns, kColumns});
  std::ranges::fill(dy.span<float>(), 1.0F);
  std::ranges::fill(x.span<float>(), 1.0F);
  for (const int64_t token : {5, 150}) {
    for (int64_t c = 0; c < kColumns; ++c) {
      x.data<float>()[token * kColumns + c] = 448;
      x.data<float>()[(token + 1) * kColumns + c] = 0x1p-12F;
      x.data<float>()[(token + 2) * kColumns + c] = 0;
    }
  }
  for (const bool requantized : {false, true}) {
    start_quantize_counts();
    const WeightGradient product{dw, dy, x, false};
    matmul_wgrad_fp8(std::span(&product, 1), {ScaleFormat::kF32, requantized}, scratch);
    const auto counts = finish_quantize_counts();
    const QuantizeCounts& activations = of_kind(counts, "activations_128x1");
    EXPECT_EQ(activations.numbers, kTokens * kColumns);
    EXPECT_EQ(activations.saturated, 2 * kColumns);
    // Requantised ones were codes of rows, whose scales kept those numbers.
    EXPECT_EQ(activations.underflowed, 2 * kColumns);
    EXPECT_EQ(activations.least_scale, 1);
    EXPECT_EQ(activations.largest_scale, 1);
    const QuantizeCounts& gradients = of_kind(counts, "gradients_128x1");
    EXPECT_EQ(gradients.numbers, kTokens * kColumns);
    EXPECT_EQ(gradients.saturated, kTokens * kColumns);
    EXPECT_EQ(gradients.underflowed, 0);
    EXPECT_EQ(gradients.least_scale, 1 / 448.0F);
  }
}

TEST_P(Fp8Golden, WhatE5M6LosesIsCounted) {
  OwnedTensor x(DType::kBF16, {3, 200}), codes(DType::kU8, {3, e5m6_bytes(200)});
  const OwnedTensor scale(DType::kF32, {3, 2});
  std::ranges::fill(x.span<bf16>(), bf16(1.0F));
  for (int64_t r = 0; r < 3; ++r) {
    x.data<bf16>()[r * 200 + 7] = bf16(65024.0F);
    x.data<bf16>()[r * 200 + 8] = bf16(0x1p-22F);  // a quarter of the least number
    x.data<bf16>()[r * 200 + 130] = bf16(2 * 65024.0F);
  }
  start_quantize_counts();
  quantize_e5m6(x, codes, scale);
  const auto counts = finish_quantize_counts();
  const QuantizeCounts& output = of_kind(counts, "attention_output");
  EXPECT_EQ(output.numbers, 600);
  EXPECT_EQ(output.saturated, 6);
  EXPECT_EQ(output.underflowed, 3);
  EXPECT_EQ(output.least_scale, 1);
  EXPECT_EQ(output.largest_scale, 2);
}

// A tile that is not finite has no codes, and no scale: whatever reads it is NaN. Others are as
// ever.
TEST_P(Fp8Golden, WhatIsNotFiniteIsPassedOn) {
  Arena scratch(size_t{1} << 20);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    for (const DType format : {DType::kF32, DType::kBF16}) {
      const Arena::Scope scope(scratch);
      OwnedTensor x(DType::kF32, {3, 200}), dw(DType::kF32, {200, 200});
      OwnedTensor codes(DType::kE4M3, {3, 200}), scale(DType::kF32, {3, 2});
      std::ranges::fill(x.span<float>(), 3.0F);
      x.data<float>()[2 * 200 + 199] = bad;
      const Matrix source = prepare(scratch, x, format);
      quantize_rows(codes, scale, source, 0, ScaleFormat::kF32);
      for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(std::isnan(scale.data<float>()[i]), i == 5);
      EXPECT_EQ(static_cast<const uint8_t*>(codes.raw())[2 * 200 + 199], 0);
      EXPECT_EQ(static_cast<const uint8_t*>(codes.raw())[2 * 200 + 127], 0x7e);
      const Operands w = operands(x, ScaleFormat::kF32);
      EXPECT_FALSE(std::isnan(w.scale.data<float>()[0]));
      EXPECT_TRUE(std::isnan(w.scale.data<float>()[1]));
      const WeightGradient gradient{dw, source, source, false};
      matmul_wgrad_fp8(std::span(&gradient, 1), {}, scratch);
      for (int64_t n = 0; n < 200; ++n) {
        for (int64_t k = 0; k < 200; ++k) {
          EXPECT_EQ(std::isnan(dw.data<float>()[n * 200 + k]), n == 199 || k == 199);
        }
      }
    }
  }
}

void expect_tiles_as_defined(const Tensor& x, DType format) {
  Arena scratch(size_t{1} << 26);
  const Matrix source = prepare(scratch, x, format);
  const int64_t T = x.dim(0), C = x.dim(1);
  OwnedTensor codes(DType::kE4M3, {T, C}), scale(DType::kF32, {T, C / kScaleBlock});
  OwnedTensor want(DType::kE4M3, {T, C}), want_scale(DType::kF32, scale.shape());
  quantize_rows(codes, scale, source, 0, ScaleFormat::kF32);
  quantize_e4m3(want, want_scale, x, kTile1x128, ScaleFormat::kF32);
  EXPECT_EQ(std::memcmp(codes.raw(), want.raw(), want.bytes()), 0);
  EXPECT_EQ(std::memcmp(scale.raw(), want_scale.raw(), want_scale.bytes()), 0);
  const QuantizedLeft left = quantize_left(scratch, source, {0, ScaleFormat::kF32});
  for (int64_t r = 0; r < T; ++r) {
    for (int64_t c = 0; c < C; ++c) {
      const uint8_t code = static_cast<const uint8_t*>(want.raw())[r * C + c];
      EXPECT_EQ(static_cast<float>(left.numbers.row<bf16>(r)[c]), e4m3_decode(code));
    }
  }
}

// Every quotient of two BF16, down to those whose codes are zero: a row for each largest number and
// binade below it.
TEST_P(Fp8Golden, EveryQuotientOfBF16IsRoundedAsDefined) {
  constexpr int64_t kSignificands = 128, kBinades = 21;
  OwnedTensor x(DType::kF32, {kSignificands, (kBinades + 1) * kScaleBlock});
  for (int64_t r = 0; r < kSignificands; ++r) {
    const float most = std::ldexp(static_cast<float>(kSignificands + r), 3);
    for (int64_t c = 0; c < x.dim(1); ++c) {
      const int64_t binade = c / kScaleBlock;
      const float number = binade == kBinades
                               ? -0.0F
                               : std::ldexp(static_cast<float>(kSignificands + c % kScaleBlock),
                                            3 - static_cast<int>(binade));
      x.data<float>()[r * x.dim(1) + c] =
          c % kScaleBlock == r ? (r % 2 == 0 ? most : -most) : std::min(number, most);
    }
  }
  expect_tiles_as_defined(x, DType::kBF16);
}

// FP32 whose quotients lie at, and beside, the middle between two codes; scales of every kind.
TEST_P(Fp8Golden, QuotientsBetweenTwoCodesAreRoundedAsDefined) {
  constexpr int64_t kRows = 400;
  OwnedTensor x(DType::kF32, {kRows, 3 * kScaleBlock});
  Rng rng(stream_key(1, 0, "middles"));
  for (int64_t r = 0; r < kRows; ++r) {
    const float size = std::ldexp(1.0F, static_cast<int>(rng.below(200)) - 100);
    const float most = size * static_cast<float>(1 + rng.uniform());
    const float scale = e4m3_scale(most, ScaleFormat::kF32);
    for (int64_t c = 0; c < x.dim(1); ++c) {
      float& number = x.data<float>()[r * x.dim(1) + c];
      const auto code = static_cast<uint8_t>(c % kScaleBlock);
      if (code >= 0x7e) {
        number = most;
        continue;
      }
      const float middle =
          (e4m3_decode(code) + e4m3_decode(static_cast<uint8_t>(code + 1))) / 2 * scale;
      const float towards = c / kScaleBlock == 0 ? 0.0F : most;
      number = c / kScaleBlock == 1 ? middle : std::nextafter(middle, towards);
      if (rng.uniform() < 0.5) number = -number;
    }
  }
  expect_tiles_as_defined(x, DType::kF32);
}

}  // namespace
}  // namespace minke::ops
