// Integers with scales: by hand, and within half a step of what they stand for.
#include "tensor/integers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"

namespace minke {
namespace {

struct Quantized {
  OwnedTensor codes, scale, back;
  Quantized(DType format, std::vector<float> x, const Shape& shape)
      : codes(format, int_codes_shape(shape, format)),
        scale(DType::kBF16, int_scale_shape(shape, format)),
        back(DType::kF32, shape) {
    quantize_integers(codes, scale, Tensor(x.data(), shape));
    dequantize_integers(back, codes, scale);
  }
};

TEST(Integers, EightBitsByHand) {
  // amax 254: the scale is 2. 3 / 2 and 5 / 2 are halfway: to even.
  const Quantized q(DType::kI8, {254, -254, 3, 5, 0, -1}, {1, 6});
  EXPECT_EQ(static_cast<float>(q.scale.data<bf16>()[0]), 2.0F);
  const auto* codes = static_cast<const int8_t*>(q.codes.raw());
  EXPECT_EQ(std::vector<int>(codes, codes + 6), (std::vector<int>{127, -127, 2, 2, 0, 0}));
}

TEST(Integers, FourBitsByHand) {
  // The largest magnitude is -16, the scale 2; 16 would be 8, and there is none beyond 7.
  const Quantized q(DType::kU8, {-16, 16, 3, 14, -2}, {1, 5});
  EXPECT_EQ(static_cast<float>(q.scale.data<bf16>()[0]), 2.0F);
  const auto* codes = static_cast<const uint8_t*>(q.codes.raw());
  EXPECT_EQ(std::vector<int>(codes, codes + 3), (std::vector<int>{0xf0, 0xfa, 0x87}));
  // A positive one turns the scale's sign.
  EXPECT_EQ(static_cast<float>(Quantized(DType::kU8, {8, 1}, {1, 2}).scale.data<bf16>()[0]), -1.0F);
}

// Half a step, and the half that rounding the scale to BF16 may take from the largest.
TEST(Integers, ErrorsAreHalfAStepAndZerosStayZero) {
  for (const DType format : {DType::kI8, DType::kU8}) {
    const int64_t block = int_block(format), cols = 2 * block + 5;
    std::vector<float> x(static_cast<size_t>(3 * cols));
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = i < static_cast<size_t>(block) ? 0.0F : std::sin(static_cast<float>(i)) * 1e-9F;
    }
    const Quantized q(format, x, {3, cols});
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const float s = static_cast<float>(q.scale.data<bf16>()[r * q.scale.dim(1) + c / block]);
        const float want = x[static_cast<size_t>(r * cols + c)];
        // Of 4 bits, what is nearly as large as the largest and of the other sign has 7 for 8.
        const double steps = format == DType::kI8 ? 0.76 : 1.04;
        EXPECT_NEAR(q.back.data<float>()[r * cols + c], want, steps * std::fabs(s));
        if (want == 0) {
          EXPECT_EQ(q.back.data<float>()[r * cols + c], 0.0F);
        }
      }
    }
  }
}

TEST(Integers, WhatIsNotFiniteIsRefused) {
  EXPECT_THROW(Quantized(DType::kI8, {1, NAN}, {1, 2}), Error);
  EXPECT_THROW(Quantized(DType::kU8, {INFINITY, 1}, {1, 2}), Error);
}

}  // namespace
}  // namespace minke
