// Quantisation and the three products of a linear layer against the goldens of FP8.
#include "ops/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "isa_test_fixture.h"
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
      const Tensor codes = golden().at(name + "_1x128" + suffix + ".codes");
      const Tensor scale = golden().at(name + "_1x128" + suffix + ".scale_inv");
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
  const QuantizedLeft left = quantize_left(scratch, x, 0, ScaleFormat::kF32);
  const QuantizedLeft d_left = quantize_left(scratch, dy, 0, ScaleFormat::kF32);
  OwnedTensor y(DType::kF32, {M, N}), dx(DType::kF32, {M, K}), dw(DType::kF32, {N, K});
  matmul({y, left.numbers, weight.fprop, false, left.scales});
  matmul({dx, d_left.numbers, weight.dgrad, false, d_left.scales});
  const WeightGradient gradient{dw, dy, x, false};
  matmul_wgrad_fp8(std::span(&gradient, 1), {}, scratch);
  expect_product(y, golden().at("fprop"), K);
  expect_product(dx, golden().at("dgrad"), N);
  expect_product(dw, golden().at("wgrad"), M);
}

TEST_P(Fp8Golden, WhatIsNotFiniteIsAnError) {
  Arena scratch(size_t{1} << 20);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    OwnedTensor x(DType::kF32, {3, 200}), dw(DType::kF32, {200, 200});
    OwnedTensor codes(DType::kE4M3, {3, 200}), scale(DType::kF32, {3, 2});
    x.data<float>()[2 * 200 + 199] = bad;
    EXPECT_THROW(quantize_rows(codes, scale, x, 0, ScaleFormat::kF32), Error);
    EXPECT_THROW(operands(x, ScaleFormat::kF32), Error);
    const WeightGradient gradient{dw, x, x, false};
    EXPECT_THROW(matmul_wgrad_fp8(std::span(&gradient, 1), {}, scratch), Error);
  }
}

}  // namespace
}  // namespace minke::ops
