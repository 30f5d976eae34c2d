// Every derivative of the reference against a complex step of its forward.
#include "ref/adamw.h"
#include "ref/complex_step.h"
#include "ref/cross_entropy.h"
#include "ref/embedding.h"
#include "ref/norm.h"
#include "ref/permute.h"
#include "ref/router.h"

namespace minke::ref {
namespace {

TEST(RefNorm, BackwardIsTheDerivative) {
  constexpr int64_t kT = 3, kD = 7;
  constexpr double kEps = 1e-3;
  const Doubles x = random_doubles(kT * kD, "x"), w = random_doubles(kD, "w"),
                dy = random_doubles(kT * kD, "dy");
  Doubles dx(x.size()), dw(w.size());
  rms_norm_backward<double>(dx, dw, dy, x, w, kT, kD, kEps);
  const auto loss = [&](const Complexes& cx, const Complexes& cw) {
    Complexes y(x.size());
    rms_norm<Complex>(y, cx, cw, kT, kD, kEps);
    return dot(y, dy);
  };
  expect_gradient(dx, x, kD, [&](const Complexes& z) { return loss(z, to_complex(w)); });
  expect_gradient(dw, w, kT, [&](const Complexes& z) { return loss(to_complex(x), z); });
}

TEST(RefNorm, BackwardAdds) {
  const Doubles x{1, 2}, w{3, 4}, dy{5, 6};
  Doubles once(2), dw_once(2), twice(2), dw_twice(2);
  rms_norm_backward<double>(once, dw_once, dy, x, w, 1, 2, 0);
  for (int i = 0; i < 2; ++i) rms_norm_backward<double>(twice, dw_twice, dy, x, w, 1, 2, 0);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(twice[i], 2 * once[i]);
    EXPECT_EQ(dw_twice[i], 2 * dw_once[i]);
  }
}

TEST(RefSwiglu, BackwardIsTheDerivative) {
  constexpr int64_t kT = 3, kF = 5;
  const Doubles x = random_doubles(kT * 2 * kF, "gate_up"), weight = random_doubles(kT, "weight"),
                dh = random_doubles(kT * kF, "dh");
  for (const bool weighted : {false, true}) {
    const Doubles w = weighted ? weight : Doubles();
    Doubles dx(x.size()), dw(w.size());
    swiglu_backward<double>(dx, dw, dh, x, w, kT, kF);
    const auto loss = [&](const Complexes& cx, const Complexes& cw) {
      Complexes h(dh.size());
      swiglu<Complex>(h, cx, cw, kT, kF);
      return dot(h, dh);
    };
    expect_gradient(dx, x, 1, [&](const Complexes& z) { return loss(z, to_complex(w)); });
    expect_gradient(dw, w, kF, [&](const Complexes& z) { return loss(to_complex(x), z); });
  }
}

TEST(RefPermute, BackwardIsTheDerivative) {
  constexpr int64_t kT = 4, kK = 2, kE = 3, kD = 2;
  const std::vector<int32_t> experts{0, 2, 1, 2, 0, 1, 1, 2};
  const ExpertOrder order = sort_by_expert(experts, kT, kK, kE);
  EXPECT_EQ(order.offsets, (std::vector<int64_t>{0, 2, 5, 8}));
  EXPECT_EQ(order.token, (std::vector<int32_t>{0, 2, 1, 2, 3, 0, 1, 3}));
  EXPECT_EQ(order.row, (std::vector<int32_t>{0, 5, 2, 6, 1, 3, 4, 7}));

  const Doubles x = random_doubles(kT * kD, "x"), rows = random_doubles(kT * kK * kD, "rows");
  Doubles dx(x.size()), drows(rows.size());
  gather_rows_backward<double>(dx, rows, order.token, kD);
  expect_gradient(dx, x, kK, [&](const Complexes& z) {
    Complexes y(rows.size());
    gather_rows<Complex>(y, z, order.token, kD);
    return dot(y, rows);
  });
  combine_rows_backward<double>(drows, x, order.row, kT, kK, kD);
  expect_gradient(drows, rows, 1, [&](const Complexes& z) {
    Complexes y(x.size());
    combine_rows<Complex>(y, z, order.row, kT, kK, kD);
    return dot(y, x);
  });
}

TEST(RefEmbedding, BackwardIsTheDerivative) {
  constexpr int64_t kV = 4, kD = 3;
  const std::vector<int32_t> tokens{2, 0, 2, 3, 2};
  const Doubles w = random_doubles(kV * kD, "w"), dx = random_doubles(tokens.size() * kD, "dx");
  Doubles dw(w.size());
  embedding_backward<double>(dw, dx, tokens, kD);
  expect_gradient(dw, w, tokens.size(), [&](const Complexes& z) {
    Complexes x(dx.size());
    embedding<Complex>(x, z, tokens, kD);
    return dot(x, dx);
  });
}

TEST(RefCrossEntropy, BackwardIsTheDerivative) {
  constexpr int64_t kT = 4, kV = 5;
  constexpr double kScale = 0.3;
  const std::vector<int32_t> targets{4, kIgnore, 0, 2};
  const Doubles logits = random_doubles(kT * kV, "logits");
  Doubles d(logits.size());
  cross_entropy_backward<double>(d, logits, targets, kT, kV, kScale);
  expect_gradient(d, logits, kV, [&](const Complexes& z) {
    Complexes loss(kT);
    return kScale * cross_entropy<Complex>(loss, z, targets, kT, kV);
  });
}

TEST(RefCrossEntropy, LargeLogitsDoNotOverflow) {
  const Doubles logits{1000, 999};
  Doubles loss(1);
  const std::vector<int32_t> targets{1};
  cross_entropy<double>(loss, logits, targets, 1, 2);
  EXPECT_NEAR(loss[0], 1 + std::log1p(std::exp(-1.0)), 1e-12);
}

class RefRouter : public ::testing::TestWithParam<std::tuple<Scoring, bool>> {};

TEST_P(RefRouter, BackwardIsTheDerivative) {
  constexpr int64_t kB = 2, kS = 3, kT = kB * kS;
  constexpr double kBalance = 0.7;
  Routing how{.experts = 6, .chosen = 2, .scale = 2.5};
  std::tie(how.scoring, how.normalize) = GetParam();
  const auto E = static_cast<size_t>(how.experts), K = static_cast<size_t>(how.chosen);
  const Doubles logits = random_doubles(kT * E, "logits"),
                dweights = random_doubles(kT * K, "dweights");
  Doubles scores(logits.size()), f(kB * E);
  router_scores<double>(scores, logits, kT, how);
  std::vector<int32_t> experts(kT * K);
  choose_experts(experts, scores, {}, kT, how);
  balance_fractions(f, scores, kB, kS, how);

  Doubles dscores(logits.size()), dlogits(logits.size());
  router_weights_backward<double>(dscores, dweights, scores, experts, kT, how);
  balance_loss_backward<double>(dscores, scores, f, kB, kS, kBalance, how);
  router_scores_backward<double>(dlogits, dscores, scores, kT, how);
  expect_gradient(dlogits, logits, E, [&](const Complexes& z) {
    Complexes s(z.size()), weights(dweights.size());
    router_scores<Complex>(s, z, kT, how);
    router_weights<Complex>(weights, s, experts, kT, how);
    return dot(weights, dweights) + kBalance * balance_loss<Complex>(s, f, kB, kS, how);
  });
}
INSTANTIATE_TEST_SUITE_P(All, RefRouter,
                         ::testing::Combine(::testing::Values(Scoring::kSigmoid, Scoring::kSoftmax),
                                            ::testing::Bool()));

TEST(RefRouterChoice, TiesGoToTheLowerIndex) {
  const Routing how{.experts = 8, .chosen = 3, .groups = 4, .chosen_groups = 2};
  const Doubles scores(8, 0.5);
  std::vector<int32_t> experts(3);
  choose_experts(experts, scores, {}, 1, how);
  EXPECT_EQ(experts, (std::vector<int32_t>{0, 1, 2}));
}

// b_i moves by gamma against the deviation from the mean, and not at all where there is none.
TEST(RefRouterChoice, BiasMovesAgainstTheLoad) {
  const std::vector<int64_t> counts{4, 1, 3, 4};
  Doubles bias(4);
  update_bias(bias, counts, 0.5);
  EXPECT_EQ(bias, (Doubles{-0.5, 0.5, 0, -0.5}));
}

// One step from zero moments moves every weight by lr, whatever the gradient's size.
TEST(RefAdamW, FirstStepIsTheSignOfTheGradient) {
  Doubles w{1, 1}, m(2), v(2);
  const Doubles g{1e-3, -1e3};
  adamw(w, m, v, g, {.lr = 0.1, .eps = 0, .weight_decay = 0.5});
  EXPECT_NEAR(w[0], 1 - 0.1 - 0.05, 1e-15);
  EXPECT_NEAR(w[1], 1 + 0.1 - 0.05, 1e-15);
}

}  // namespace
}  // namespace minke::ref
