#include "ops/cross_entropy.h"

#include <gmock/gmock.h>

#include <cmath>
#include <vector>

#include "ops/embedding.h"
#include "ops/isa_test_fixture.h"

namespace minke::ops {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// A head of V = 3 over D = 2 whose weights are given.
struct Head {
  explicit Head(std::vector<float> weights) : w(std::move(weights)) {
    const PackJob rows{{fprop.data(), DType::kF32, 3, 2}, Tensor(w.data(), {3, 2})};
    const PackJob columns{{dgrad.data(), DType::kF32, 2, 3}, Tensor(w.data(), {3, 2})};
    pack_rows(std::span(&rows, 1));
    pack_columns(std::span(&columns, 1));
  }
  CrossEntropy on(std::vector<float>& h, const std::vector<int32_t>& targets) {
    CrossEntropy what;
    what.h_TD = Tensor(h.data(), {std::ssize(targets), 2});
    what.head = {fprop.data(), DType::kF32, 3, 2};
    what.targets = targets;
    return what;
  }

  std::vector<float> w;
  Buffer fprop{packed_bytes(DType::kF32, 3, 2)}, dgrad{packed_bytes(DType::kF32, 2, 3)};
  Arena scratch{size_t{1} << 20};
};

class LinearCrossEntropy : public EveryIsa {};
MINKE_ON_EVERY_ISA(LinearCrossEntropy);

TEST_P(LinearCrossEntropy, LossAloneNeedsNoGradients) {
  Head head({1, 0, 0, 1, 0, 0});
  std::vector<float> h{0, 0}, loss(1);
  const std::vector<int32_t> targets{2};
  CrossEntropy what = head.on(h, targets);
  what.loss_T = loss;
  EXPECT_NEAR(linear_cross_entropy(what, head.scratch), std::log(3.0), 1e-6);
  EXPECT_NEAR(loss[0], std::log(3.0), 1e-6);
}

TEST_P(LinearCrossEntropy, IgnoredTokensCountForNothing) {
  Head head({1, 0, 0, 1, 0, 0});
  std::vector<float> h{3, 4, 5, 6}, dh(4, 7.0F), dw(6), loss(2, 7.0F);
  std::vector<int32_t> argmax(2);
  const std::vector<int32_t> targets{kIgnore, kIgnore};
  CrossEntropy what = head.on(h, targets);
  what.head_dgrad = {head.dgrad.data(), DType::kF32, 2, 3};
  what.dh_TD = Tensor(dh.data(), {2, 2});
  what.dw_VD = Tensor(dw.data(), {3, 2});
  what.loss_T = loss;
  what.argmax_T = argmax;
  EXPECT_EQ(linear_cross_entropy(what, head.scratch), 0);
  EXPECT_THAT(dh, Each(0.0F));
  EXPECT_THAT(dw, Each(0.0F));
  EXPECT_THAT(loss, Each(0.0F));
  EXPECT_THAT(argmax, ElementsAre(1, 1));
}

TEST_P(LinearCrossEntropy, LargeLogitsDoNotOverflow) {
  Head head({1, 0, 0, 1, 0, 0});
  std::vector<float> h{1e4F, -1e4F};
  const std::vector<int32_t> targets{1};
  EXPECT_EQ(linear_cross_entropy(head.on(h, targets), head.scratch), 2e4);
}

TEST_P(LinearCrossEntropy, EqualLogitsHaveTheFirstAsArgmax) {
  Head head({0, 0, 1, 1, 1, 1});
  std::vector<float> h{1, 1};
  std::vector<int32_t> argmax(1);
  const std::vector<int32_t> targets{0};
  CrossEntropy what = head.on(h, targets);
  what.argmax_T = argmax;
  linear_cross_entropy(what, head.scratch);
  EXPECT_EQ(argmax[0], 1);
}

TEST_P(LinearCrossEntropy, NanLogitsGiveALossThatIsNotFinite) {
  Head head({1, 0, 0, 1, 0, std::nanf("")});
  std::vector<float> h{1, 1};
  const std::vector<int32_t> targets{0};
  EXPECT_FALSE(std::isfinite(linear_cross_entropy(head.on(h, targets), head.scratch)));
}

// Trap 16: an id of -1, which other systems' drafts ended with, is refused before a kernel sees it.
TEST(CrossEntropyDeathTest, Trap16TargetBeyondTheVocabulary) {
  Head head({1, 0, 0, 1, 0, 0});
  std::vector<float> h{1, 1};
  for (const int32_t bad : {3, -1}) {
    const std::vector<int32_t> targets{bad};
    EXPECT_DEATH(linear_cross_entropy(head.on(h, targets), head.scratch), "target -?[13] of 3");
  }
}

TEST(EmbeddingDeathTest, Trap16TokenBeyondTheVocabulary) {
  std::vector<float> w(6), x(2);
  for (const int32_t bad : {3, -1}) {
    const std::vector<int32_t> tokens{bad};
    EXPECT_DEATH(embedding(Tensor(x.data(), {1, 2}), Tensor(w.data(), {3, 2}), tokens),
                 "token -?[13] of 3");
    EXPECT_DEATH(embedding_backward(Tensor(w.data(), {3, 2}), Tensor(x.data(), {1, 2}), tokens),
                 "token -?[13] of 3");
  }
}

}  // namespace
}  // namespace minke::ops
