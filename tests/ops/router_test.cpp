#include "ops/router.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <vector>

#include "ops/isa_test_fixture.h"

namespace minke::ops {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;

struct Routes {
  std::vector<int32_t> experts;
  std::vector<float> weights, scores;
};

Routes route_tokens(std::vector<float> logits, std::vector<float> bias, const Routing& how,
                    const std::vector<int32_t>& forced = {}) {
  const int64_t T = std::ssize(logits) / how.experts;
  Routes r;
  r.experts = forced;
  r.experts.resize(static_cast<size_t>(T * how.chosen));
  r.weights.resize(r.experts.size());
  r.scores.resize(logits.size());
  route(Tensor(r.experts.data(), {T, how.chosen}), Tensor(r.weights.data(), {T, how.chosen}),
        Tensor(r.scores.data(), {T, how.experts}), Tensor(logits.data(), {T, how.experts}),
        bias.empty() ? Tensor{} : Tensor(bias.data(), {how.experts}), how, !forced.empty());
  return r;
}

class Router : public EveryIsa {};
MINKE_ON_EVERY_ISA(Router);

// Trap 1: 64 ranks' counts of one expert sum to 40,840, below the mean of 41,000. A sum in BF16
// gives 41,216, above it, and moves the bias the wrong way.
TEST(RouterBias, Trap1CountsAreSummedExactly) {
  std::vector<int64_t> counts(2);
  const Tensor counts_E(counts.data(), {2});
  int64_t left[2] = {40840, 41160};
  for (int rank = 0; rank < 64; ++rank) {
    std::vector<int32_t> experts;
    for (int32_t e = 0; e < 2; ++e) {
      const int64_t share = rank == 63 ? left[e] : left[e] / (64 - rank);
      experts.insert(experts.end(), static_cast<size_t>(share), e);
      left[e] -= share;
    }
    count_experts(counts_E, Tensor(experts.data(), {std::ssize(experts), 1}));
  }
  EXPECT_THAT(counts, ElementsAre(40840, 41160));
  std::vector<float> bias(2);
  update_bias(Tensor(bias.data(), {2}), counts_E, 0.001F);
  EXPECT_THAT(bias, ElementsAre(0.001F, -0.001F));
}

TEST(RouterBias, CountsNearTheEndOfTheirTypeKeepTheSign) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> counts{kHuge, kHuge - 2, kHuge - 1};
  std::vector<float> bias(3);
  update_bias(Tensor(bias.data(), {3}), Tensor(counts.data(), {3}), 1.0F);
  EXPECT_THAT(bias, ElementsAre(-1.0F, 1.0F, 0.0F));
}

// Trap 2: a score of 1e-8 beside a bias of 12 is lost in their sum, so a weight got back as
// "sum - bias" would be 0.
TEST_P(Router, Trap2WeightsAreNotTakenFromBiasedScores) {
  const Routing how{.experts = 4, .chosen = 2};
  const Routes r = route_tokens({-18.0F, -18.5F, -19.0F, -19.5F}, {12, 12, 12, 12}, how);
  EXPECT_THAT(r.weights, Each(Gt(0.0F)));
  const double first = std::exp(-18.0), second = std::exp(-18.5);
  EXPECT_NEAR(r.weights[0], first / (first + second), 20 * kRoundoffF32);
  EXPECT_NEAR(r.weights[1], second / (first + second), 20 * kRoundoffF32);
}

// Trap 3: where all biased scores are negative, experts masked with 0 would be chosen.
TEST_P(Router, Trap3NothingIsChosenFromMaskedGroups) {
  const Routing how{.experts = 8, .chosen = 4, .groups = 4, .chosen_groups = 2};
  // Groups 1 and 3 hold the best scores.
  const Routes r = route_tokens({0, 0, 2, 2, 0, 0, 2, 2}, std::vector<float>(8, -5.0F), how);
  EXPECT_THAT(r.experts, ElementsAre(2, 3, 6, 7));
}

TEST_P(Router, InfinitelyBadExpertsOfKeptGroupsStillBeatMaskedOnes) {
  constexpr float kBad = -std::numeric_limits<float>::infinity();
  const Routing how{.experts = 4, .chosen = 2, .groups = 2};
  const Routes r = route_tokens({0, 0, 0, 0}, {kBad, kBad, kBad, kBad}, how);
  EXPECT_THAT(r.experts, ElementsAre(0, 1));
}

// Trap 4: the bias chooses, and does nothing else.
TEST_P(Router, Trap4WeightsComeFromUnbiasedScores) {
  const Routing how{.experts = 4, .chosen = 2, .scale = 2.5F};
  const Routes r = route_tokens({1, 2, 3, 4}, {9, 9, 0, 0}, how);
  EXPECT_THAT(r.experts, ElementsAre(0, 1));
  const float total = r.scores[0] + r.scores[1] + 1e-20F;
  EXPECT_FLOAT_EQ(r.weights[0], 2.5F * r.scores[0] / total);
  EXPECT_FLOAT_EQ(r.weights[1], 2.5F * r.scores[1] / total);
}

TEST_P(Router, TiesGoToTheLowerIndex) {
  const Routing how{.experts = 8, .chosen = 3, .groups = 4, .chosen_groups = 2};
  EXPECT_THAT(route_tokens(std::vector<float>(8, 1.0F), std::vector<float>(8), how).experts,
              ElementsAre(0, 1, 2));
  Routing greedy = how;
  greedy.method = TopkMethod::kGreedy;
  EXPECT_THAT(route_tokens({0, 1, 0, 1, 0, 1, 0, 1}, {}, greedy).experts, ElementsAre(1, 3, 5));
}

TEST_P(Router, GroupsAreRankedByTheirBestTwoOrTheirBest) {
  // Group 0 has the best expert, group 1 the best two.
  Routing how{.experts = 4, .chosen = 1, .groups = 2};
  const std::vector<float> logits{2, -9, 1, 1};
  EXPECT_THAT(route_tokens(logits, std::vector<float>(4), how).experts, ElementsAre(2));
  how.method = TopkMethod::kGroupLimitedGreedy;
  how.scoring = Scoring::kSoftmax;
  EXPECT_THAT(route_tokens(logits, {}, how).experts, ElementsAre(0));
}

TEST_P(Router, OnlyNoauxTcReadsTheBias) {
  const Routing how{.experts = 3, .chosen = 1, .method = TopkMethod::kGreedy};
  EXPECT_THAT(route_tokens({3, 2, 1}, {0, 0, 99}, how).experts, ElementsAre(0));
}

// The weight of one expert alone is 1 whatever its score, and those of experts with one gradient
// have one sum: what the balance loss says is then all there is.
TEST_P(Router, WeightsThatCannotChangeHaveNoGradient) {
  for (const int64_t chosen : {1, 3}) {
    const Routing how{.experts = 3, .chosen = chosen};
    std::vector<float> scores{0.31F, 0.77F, 0.5F}, dweights(static_cast<size_t>(chosen), 0.7F);
    std::vector<float> dlogits(3);
    std::vector<int32_t> experts{0, 1, 2};
    router_backward(Tensor(dlogits.data(), {1, 3}), Tensor(dweights.data(), {1, chosen}),
                    Tensor(experts.data(), {1, chosen}), Tensor(scores.data(), {1, 3}), {}, 1, 0,
                    how);
    // The floor under the sum is all that moves.
    EXPECT_THAT(dlogits, Each(testing::FloatNear(0, 1e-19F)));
  }
}

TEST_P(Router, ForcedRoutesAreKept) {
  const Routing how{.experts = 4, .chosen = 2, .normalize = false};
  const Routes r = route_tokens({4, 3, 2, 1}, {}, how, {2, 3});
  EXPECT_THAT(r.experts, ElementsAre(2, 3));
  EXPECT_EQ(r.weights[0], r.scores[2]);
  EXPECT_EQ(r.weights[1], r.scores[3]);
}

TEST_P(Router, NanIsAnErrorThatNamesTheToken) {
  const Routing how{.experts = 2, .chosen = 1};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  try {
    route_tokens({0, 0, 0, 0, 0, nan}, {0, 0}, how);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("token 2"));
  }
}

// e^x is within 4 roundings, then a sum and a division; where e^-x overflows the result is 0.
TEST_P(Router, SigmoidIsAccurateOverItsWholeRange) {
  std::vector<float> logits;
  for (float x = -120; x <= 120; x += 0.01F) logits.push_back(x);
  const Routing how{.experts = std::ssize(logits), .chosen = 1, .method = TopkMethod::kGreedy};
  const Routes r = route_tokens(logits, {}, how);
  for (size_t i = 0; i < logits.size(); ++i) {
    const double want = 1 / (1 + std::exp(-static_cast<double>(logits[i])));
    EXPECT_NEAR(r.scores[i], want, 6 * kRoundoffF32 * want + 0x1p-126) << logits[i];
  }
}

TEST_P(Router, ScoresThatAllVanishGiveNoNan) {
  const Routing how{.experts = 4, .chosen = 2};
  const std::vector<float> logits(4, -1000.0F);
  Routes r = route_tokens(logits, std::vector<float>(4), how);
  EXPECT_THAT(r.weights, Each(0.0F));
  std::vector<float> f(4), dweights(2, 1.0F), dlogits(4);
  const Tensor scores(r.scores.data(), {1, 4}), f_BE(f.data(), {1, 4});
  EXPECT_EQ(sequence_balance(f_BE, scores, 1, how), 0);
  router_backward(Tensor(dlogits.data(), {1, 4}), Tensor(dweights.data(), {1, 2}),
                  Tensor(r.experts.data(), {1, 2}), scores, f_BE, 1, 0.1F, how);
  EXPECT_THAT(dlogits, Each(0.0F));
}

// A perfectly even sequence has f = 1 and a loss of 1.
TEST_P(Router, BalanceOfAnEvenSequenceIsOne) {
  const Routing how{.experts = 4, .chosen = 1, .scoring = Scoring::kSoftmax};
  std::vector<float> logits(16);
  for (size_t t = 0; t < 4; ++t) logits[t * 4 + t] = 3;
  Routes r = route_tokens(logits, std::vector<float>(4), how);
  std::vector<float> f(4);
  EXPECT_NEAR(sequence_balance(Tensor(f.data(), {1, 4}), Tensor(r.scores.data(), {4, 4}), 1, how),
              1, 1e-6);
  EXPECT_THAT(f, Each(1.0F));
}

TEST(RouterDeathTest, MoreExpertsThanTheKeptGroupsHold) {
  const Routing how{.experts = 8, .chosen = 3, .groups = 4, .chosen_groups = 1};
  EXPECT_DEATH(route_tokens(std::vector<float>(8), std::vector<float>(8), how),
               "3 experts of 1 groups of 2");
}

}  // namespace
}  // namespace minke::ops
