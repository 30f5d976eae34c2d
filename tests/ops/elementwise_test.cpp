#include "ops/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "ops/adamw.h"
#include "ops/isa_test_fixture.h"
#include "ops/norm.h"

namespace minke::ops {
namespace {

class Elementwise : public EveryIsa {};
MINKE_ON_EVERY_ISA(Elementwise);

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Infinities, subnormals of both formats, ties to even both ways, overflow by rounding, NaNs.
TEST_P(Elementwise, ConvertsSpecialValuesAsTheDefinitionDoes) {
  std::vector<float> x{0.0F,      -0.0F,      kInfinity,     -kInfinity,      kNan,       -kNan,
                       0x1p-149F, -0x1p-149F, 0x1.8p-134F,   0x1p-134F,       0x1p-126F,  1.0F,
                       0x1.01p0F, 0x1.03p0F,  0x1.010002p0F, 0x1.fffffep127F, 0x1.fep127F};
  x.push_back(std::bit_cast<float>(0x7f800001U));  // a signalling NaN with an empty upper half
  std::vector<bf16> y(x.size());
  convert(Tensor(y.data(), {1, std::ssize(y)}), Tensor(x.data(), {1, std::ssize(x)}));
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i].bits, bf16(x[i]).bits) << x[i];
}

TEST_P(Elementwise, ConvertsEveryBf16Exactly) {
  std::vector<bf16> x(65536), back(65536);
  std::vector<float> y(65536);
  for (size_t i = 0; i < x.size(); ++i) x[i].bits = static_cast<uint16_t>(i);
  convert(Tensor(y.data(), {256, 256}), Tensor(x.data(), {256, 256}));
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(y[i]), static_cast<uint32_t>(i) << 16);
  }
  convert(Tensor(back.data(), {256, 256}), Tensor(y.data(), {256, 256}));
  for (size_t i = 0; i < x.size(); ++i) {
    const uint16_t quiet = std::isnan(y[i]) ? 0x40 : 0;
    EXPECT_EQ(back[i].bits, x[i].bits | quiet);
  }
}

TEST_P(Elementwise, NanStaysNanThroughSwiglu) {
  for (int64_t F = 1; F <= 40; ++F) {
    std::vector<float> x(static_cast<size_t>(2 * F), 1.0F), h(static_cast<size_t>(F));
    x[static_cast<size_t>(F) - 1] = kNan;
    swiglu(Tensor(h.data(), {1, F}), Tensor(x.data(), {1, 2 * F}), {});
    EXPECT_TRUE(std::isnan(h.back())) << F;
  }
}

TEST_P(Elementwise, SiluSaturates) {
  std::vector<float> x{100, -100, 1000, -1000, 1, 1, 1, 1}, h(4);
  swiglu(Tensor(h.data(), {1, 4}), Tensor(x.data(), {1, 8}), {});
  EXPECT_EQ(h[0], 100.0F);
  EXPECT_NEAR(h[1], 0.0F, 0x1p-126F);
  EXPECT_EQ(h[2], 1000.0F);
  EXPECT_EQ(h[3], 0.0F);
}

TEST_P(Elementwise, NormOfZerosIsZero) {
  std::vector<float> x(5), y(5, kNan), w(5, 1.0F);
  rms_norm(Tensor(y.data(), {1, 5}), {}, Tensor(x.data(), {1, 5}), Tensor(w.data(), {5}), 1e-6F);
  EXPECT_EQ(y, x);
}

// Sums and AdamW promise more than the others: no instruction set changes a byte.
TEST(ElementwiseEveryIsa, SumOfSquaresAndAdamWAreTheSameBytes) {
  const Isa before = isa();
  constexpr int64_t kN = 70001;
  Rng rng(7);
  std::vector<float> g(kN), start(kN);
  for (size_t i = 0; i < g.size(); ++i) {
    g[i] = static_cast<float>(rng.normal());
    start[i] = static_cast<float>(rng.normal());
  }
  std::vector<double> sums;
  std::vector<std::vector<float>> weights;
  for (const Isa set : available_isas()) {
    set_isa(set);
    sums.push_back(sum_of_squares(Tensor(g.data(), {kN})));
    std::vector<float> w = start, m(kN), v(kN);
    for (int64_t step = 1; step <= 3; ++step) {
      adamw(Tensor(w.data(), {kN}), Tensor(m.data(), {kN}), Tensor(v.data(), {kN}),
            Tensor(g.data(), {kN}), {.lr = 0.01F, .weight_decay = 0.1F, .step = step});
    }
    weights.push_back(w);
  }
  set_isa(before);
  for (size_t i = 1; i < sums.size(); ++i) {
    EXPECT_EQ(sums[i], sums[0]);
    EXPECT_EQ(weights[i], weights[0]);
  }
}

// A gradient of zero from the start must not divide zero by zero.
TEST(AdamWStep, ZeroGradientOnlyDecays) {
  std::vector<float> w{2.0F}, m{0.0F}, v{0.0F}, g{0.0F};
  adamw(Tensor(w.data(), {1}), Tensor(m.data(), {1}), Tensor(v.data(), {1}), Tensor(g.data(), {1}),
        {.lr = 0.5F, .weight_decay = 0.5F});
  EXPECT_EQ(w[0], 1.5F);
}

}  // namespace
}  // namespace minke::ops
