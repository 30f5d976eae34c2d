#include "ref/matmul.h"

#include "ref/complex_step.h"

namespace minke::ref {
namespace {

constexpr int64_t kM = 3, kN = 4, kK = 5;

TEST(RefMatmul, AProductThatCanBeDoneByHand) {
  const Doubles x{1, 2, 3, 4}, w{5, 6, 7, 8, 9, 10};
  Doubles y(6, -1);
  matmul<double>(y, x, w, 2, 3, 2);
  EXPECT_EQ(y, (Doubles{17, 23, 29, 39, 53, 67}));
}

TEST(RefMatmul, GradientsAreTheDerivatives) {
  const Doubles x = random_doubles(kM * kK, "x"), w = random_doubles(kN * kK, "w"),
                dy = random_doubles(kM * kN, "dy");
  Doubles dx(x.size()), dw(w.size());
  matmul_dgrad<double>(dx, dy, w, kM, kN, kK);
  matmul_wgrad<double>(dw, dy, x, kM, kN, kK);
  const auto loss = [&](const Complexes& cx, const Complexes& cw) {
    Complexes y(dy.size());
    matmul<Complex>(y, cx, cw, kM, kN, kK);
    return dot(y, dy);
  };
  expect_gradient(dx, x, kN, [&](const Complexes& z) { return loss(z, to_complex(w)); });
  expect_gradient(dw, w, kM, [&](const Complexes& z) { return loss(to_complex(x), z); });
}

// <dy, x w^T> = <dy w, x> = <dy^T x, w>: the product is bilinear. The three are sums of the same
// M N K products in float64, each with fewer roundings than the longest inner product and sum
// together have terms.
TEST(RefMatmul, TheThreeProductsAreOneForm) {
  const Doubles x = random_doubles(kM * kK, "x"), w = random_doubles(kN * kK, "w"),
                dy = random_doubles(kM * kN, "dy");
  Doubles y(dy.size()), dx(x.size()), dw(w.size());
  matmul<double>(y, x, w, kM, kN, kK);
  matmul_dgrad<double>(dx, dy, w, kM, kN, kK);
  matmul_wgrad<double>(dw, dy, x, kM, kN, kK);
  const auto inner = [](const Doubles& a, const Doubles& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  double magnitude = 0;
  for (int64_t m = 0; m < kM; ++m) {
    for (int64_t n = 0; n < kN; ++n) {
      for (int64_t k = 0; k < kK; ++k) {
        magnitude += std::abs(dy[m * kN + n] * x[m * kK + k] * w[n * kK + k]);
      }
    }
  }
  const double bound = 2 * (kM * kN + kN * kK + kM * kK + 2) * 0x1p-53 * magnitude;
  EXPECT_NEAR(inner(dy, y), inner(dx, x), bound);
  EXPECT_NEAR(inner(dy, y), inner(dw, w), bound);
}

TEST(RefMatmul, GradientsAdd) {
  const Doubles x{1, 2}, w{3, 4}, dy{5};
  Doubles dx{100, 200}, dw{300, 400};
  matmul_dgrad<double>(dx, dy, w, 1, 1, 2);
  matmul_wgrad<double>(dw, dy, x, 1, 1, 2);
  EXPECT_EQ(dx, (Doubles{115, 220}));
  EXPECT_EQ(dw, (Doubles{305, 410}));
}

}  // namespace
}  // namespace minke::ref
