#include "ops/tensor_core.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "ops/quantize.h"
#include "tensor/number.h"

namespace minke::ops {
namespace {

TEST(TensorCore, SmallWholeNumbersAreExact) {
  const std::vector<float> a(96, 2), b(96, 3);
  EXPECT_EQ(tensor_core_dot(a, b, 0), 576);
  EXPECT_EQ(tensor_core_dot(a, b, 32), 576);
}

TEST(TensorCore, FourteenBitsAreKeptOfTheLargest) {
  std::vector<float> a(32), b(32, 1);
  a[0] = 8192;  // 2^13: the lowest bit that is kept is 1
  a[1] = 1.75F;
  a[2] = -1.75F;
  a[3] = 0.75F;
  EXPECT_EQ(tensor_core_dot(a, b, 0), 8192);  // 1 - 1 + 0
  a[2] = 0;
  EXPECT_EQ(tensor_core_dot(a, b, 0), 8193);
}

// Root mean square of the error of sums of k products of E4M3, beside that of the sums.
double relative_error(int64_t k, int64_t promote) {
  constexpr int kSums = 200;
  double error = 0, size = 0;
  Rng rng(stream_key(1, 0, "products"));
  for (int s = 0; s < kSums; ++s) {
    std::vector<float> a, b;
    double exact = 0;
    for (int64_t i = 0; i < k; ++i) {
      // Uniform, as of numbers with a mean: the sum grows with k.
      a.push_back(e4m3_decode(e4m3_encode(static_cast<float>(rng.uniform() * 448))));
      b.push_back(e4m3_decode(e4m3_encode(static_cast<float>(rng.uniform() * 448))));
      exact += double{a.back()} * double{b.back()};
    }
    const double difference = double{tensor_core_dot(a, b, promote)} - exact;
    error += difference * difference;
    size += exact * exact;
  }
  return std::sqrt(error / size);
}

// Each of k / 32 additions cuts about half of 2^-13 of the sum off, and every product as much of
// itself: the error of a sum that grows is proportional to k. Promoted, it is that of 128 numbers.
TEST(TensorCore, TheErrorGrowsWithoutPromotionAndNotWithIt) {
  const double at_512 = relative_error(512, 0), at_4096 = relative_error(4096, 0);
  EXPECT_GT(at_4096, 4 * at_512);
  EXPECT_GT(at_4096, 5e-3);
  const double promoted_512 = relative_error(512, 128), promoted_4096 = relative_error(4096, 128);
  EXPECT_LT(promoted_4096, 1.1 * promoted_512);
  EXPECT_LT(promoted_4096, at_4096 / 10);
}

// The same in products whose operands are quantised, which FP32 sums are exact beside.
struct Quantized {
  Arena scratch{size_t{1} << 24};
  OwnedTensor y, codes, scale;
  QuantizedLeft left;
  Packed right;
  Quantized(int64_t K, ScaleFormat format)
      : y(DType::kF32, {4, 8}),
        codes(DType::kU8, {static_cast<int64_t>(packed_bytes(DType::kE4M3, 8, K))}),
        scale(DType::kF32, {1, (K + 127) / 128}) {
    OwnedTensor x(DType::kF32, {4, K}), w(DType::kF32, {8, K});
    Rng rng(stream_key(1, 0, "operands"));
    for (float& v : x.span<float>()) v = static_cast<float>(rng.uniform());
    for (float& v : w.span<float>()) v = static_cast<float>(rng.uniform());
    left = quantize_left(scratch, x, {0, format});
    right = {static_cast<std::byte*>(codes.raw()),
             DType::kE4M3,
             8,
             K,
             {scale.data<float>(), 128, scale.dim(1), 1}};
    const QuantizeJob job{{right, {}, 0, scale.data<float>(), format}, w};
    quantize_weights(std::span(&job, 1));
  }
  std::vector<float> product(int64_t promote) {
    left.scales.promote = promote;
    matmul({y, left.numbers, right, false, left.scales});
    return {y.data<float>(), y.data<float>() + y.count()};
  }
  double error(int64_t promote) {
    const auto want = product(Fp8Recipe::kFp32Sums), got = product(promote);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      difference += std::pow(double{got[i]} - double{want[i]}, 2);
      norm += std::pow(double{want[i]}, 2);
    }
    return std::sqrt(difference / norm);
  }
};

TEST(TensorCore, TheErrorOfProductsGrowsWithoutPromotionAndNotWithIt) {
  Quantized small(512, ScaleFormat::kF32), large(4096, ScaleFormat::kF32);
  EXPECT_GT(large.error(0), 4 * small.error(0));
  EXPECT_GT(large.error(0), 5e-3);
  EXPECT_GT(small.error(128), 0);
  EXPECT_LT(large.error(128), 1.5 * small.error(128));
  EXPECT_LT(large.error(128), large.error(0) / 10);
}

// Sums of 32 small whole numbers lose nothing: the layouts are read as they are, blocks that are
// not whole, too.
TEST(TensorCore, ShortSumsOfAProductAreThoseOfTheKernels) {
  Quantized q(20, ScaleFormat::kPowerOfTwo);
  EXPECT_LT(q.error(32), 1e-3);
  Arena scratch(size_t{1} << 20);
  OwnedTensor dy(DType::kF32, {20, 6}), x(DType::kF32, {20, 40});
  for (int64_t i = 0; i < dy.count(); ++i) dy.data<float>()[i] = static_cast<float>(i % 3);
  for (int64_t i = 0; i < x.count(); ++i) x.data<float>()[i] = static_cast<float>(i % 5 % 3);
  OwnedTensor want(DType::kF32, {6, 40}), got(DType::kF32, {6, 40});
  const WeightGradient exact{want, dy, x, false}, emulated{got, dy, x, false};
  matmul_wgrad_fp8(std::span(&exact, 1), {ScaleFormat::kPowerOfTwo}, scratch);
  matmul_wgrad_fp8(std::span(&emulated, 1), {ScaleFormat::kPowerOfTwo, false, 32}, scratch);
  for (int64_t i = 0; i < want.count(); ++i) {
    EXPECT_EQ(got.data<float>()[i], want.data<float>()[i]);
  }
}

}  // namespace
}  // namespace minke::ops
