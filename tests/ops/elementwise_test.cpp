#include "ops/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "ops/adamw.h"
#include "ops/isa_test_fixture.h"
#include "ops/norm.h"

namespace minke::ops {
namespace {

void step_of(std::vector<float>& w, std::vector<float>& m, std::vector<float>& v,
             std::vector<float>& g, float decay, const AdamW& how) {
  const auto tensor = [](std::vector<float>& x) { return Tensor(x.data(), {std::ssize(x)}); };
  const AdamWUpdate update{tensor(w), tensor(m), tensor(v), tensor(g), decay, {}, {}};
  adamw(std::span(&update, 1), how);
}

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
      step_of(w, m, v, g, 0.1F, {.lr = 0.01F, .step = step});
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
  step_of(w, m, v, g, 0.5F, {.lr = 0.5F});
  EXPECT_EQ(w[0], 1.5F);
}

// What is packed in passing is what packing afterwards gives.
class AdamWPacks : public EveryIsa {};

TEST_P(AdamWPacks, AsPackingAfterwardsWould) {
  struct Size {
    int64_t rows, cols;
  };
  for (const Size size :
       {Size{1, 1}, Size{127, 33}, Size{128, 64}, Size{129, 65}, Size{300, 257}}) {
    for (const DType format : {DType::kF32, DType::kBF16}) {
      const auto [rows, cols] = size;
      OwnedTensor w(DType::kF32, {rows, cols}), m(DType::kF32, {rows, cols}),
          v(DType::kF32, {rows, cols}), g(DType::kF32, {rows, cols});
      Rng rng(3);
      for (float& x : w.span<float>()) x = static_cast<float>(rng.normal());
      for (float& x : g.span<float>()) x = static_cast<float>(rng.normal());
      const auto memory = [&](int64_t n, int64_t k) {
        return OwnedTensor(DType::kU8, {static_cast<int64_t>(packed_bytes(format, n, k))});
      };
      const auto packed = [&](const OwnedTensor& at, int64_t n, int64_t k) {
        return Packed{static_cast<std::byte*>(at.raw()), format, n, k};
      };
      const OwnedTensor by_rows = memory(rows, cols), by_columns = memory(cols, rows),
                        rows_after = memory(rows, cols), columns_after = memory(cols, rows);
      const AdamWUpdate update{
          w, m, v, g, 0.1F, packed(by_rows, rows, cols), packed(by_columns, cols, rows)};
      adamw(std::span(&update, 1), {.lr = 0.01F});
      const PackJob row_job{packed(rows_after, rows, cols), w};
      const PackJob column_job{packed(columns_after, cols, rows), w};
      pack_rows(std::span(&row_job, 1));
      pack_columns(std::span(&column_job, 1));
      EXPECT_EQ(std::memcmp(by_rows.raw(), rows_after.raw(), by_rows.bytes()), 0);
      EXPECT_EQ(std::memcmp(by_columns.raw(), columns_after.raw(), by_columns.bytes()), 0);
    }
  }
}

MINKE_ON_EVERY_ISA(AdamWPacks);

// Moments in BF16 that are rounded at random.
class AdamWRounds : public EveryIsa {
 protected:
  // m after a step with beta1 1/2 from m = 0: half of the gradient.
  static std::vector<bf16> rounded(const std::vector<float>& gradient, uint64_t key) {
    const auto n = std::ssize(gradient);
    std::vector<float> w(gradient.size()), g = gradient;
    std::vector<bf16> m(gradient.size()), v(gradient.size());
    AdamWUpdate update{Tensor(w.data(), {n}),
                       Tensor(m.data(), {n}),
                       Tensor(v.data(), {n}),
                       Tensor(g.data(), {n}),
                       0,
                       {},
                       {}};
    update.rounding = key;
    adamw(std::span(&update, 1), {.lr = 0.01F, .beta1 = 0.5F});
    return m;
  }
};
MINKE_ON_EVERY_ISA(AdamWRounds);

TEST_P(AdamWRounds, ToOneNeighbourOrTheOtherAndRightInTheMean) {
  constexpr int64_t kCount = 1 << 16;
  for (const double part : {0.0, 0.125, 0.5, 0.9}) {
    // Between 1 and 1 + 2^-7, its neighbour.
    const double x = 1 + std::ldexp(part, -7);
    const auto got = rounded(std::vector<float>(kCount, static_cast<float>(2 * x)), 17);
    int64_t up = 0;
    for (const bf16 m : got) {
      const auto value = static_cast<float>(m);
      ASSERT_TRUE(value == 1 || value == 1.0078125F) << value;
      up += static_cast<int64_t>(value > 1);
    }
    // Five standard deviations of a binomial.
    const double n = kCount;
    EXPECT_NEAR(static_cast<double>(up), part * n, 5 * std::sqrt(part * (1 - part) * n));
    // Of neighbours in the tensor none follows the other.
    int64_t both = 0;
    for (size_t i = 1; i < got.size(); ++i) {
      both += static_cast<int64_t>(static_cast<float>(got[i]) > 1 &&
                                   static_cast<float>(got[i - 1]) > 1);
    }
    const double p = part * part;
    EXPECT_NEAR(static_cast<double>(both), p * n, 7 * std::sqrt(p * (1 - p) * n) + 1);
  }
}

TEST_P(AdamWRounds, AKeyIsAStreamAndTheSameOnEveryInstructionSet) {
  std::vector<float> gradient;
  Rng rng(3);
  for (int i = 0; i < 70'001; ++i) gradient.push_back(static_cast<float>(rng.normal()));
  const auto bits = [](const std::vector<bf16>& x) {
    std::vector<uint16_t> out;
    for (const bf16 b : x) out.push_back(b.bits);
    return out;
  };
  const auto one = bits(rounded(gradient, 1));
  EXPECT_EQ(one, bits(rounded(gradient, 1)));
  EXPECT_NE(one, bits(rounded(gradient, 2)));
  set_isa(Isa::kScalar);
  EXPECT_EQ(one, bits(rounded(gradient, 1)));
}

}  // namespace
}  // namespace minke::ops
