// Trap 10: what the routers count is what they chose, once a token, however a batch is computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/rng.h"
#include "model/transformer.h"
#include "tiny_config.h"

namespace minke::model {
namespace {

using Counts = std::vector<std::vector<int64_t>>;

class RouterCounts : public testing::TestWithParam<Precision> {
 protected:
  RouterCounts() {
    Rng rng(3);
    for (int32_t& token : tokens_) token = static_cast<int32_t>(rng.below(37));
    model_.initialize(5);
    model_.attach_gradients();
    model_.prepare(true);
  }
  Batch batch() const {
    Batch out;
    out.sequences = kSequences;
    out.positions = kPositions;
    out.row_tokens = kPositions + 2;
    out.tokens = tokens_;
    return out;
  }
  Pass pass() { return {GetParam(), saved_, scratch_}; }
  Counts counts() {
    Counts out;
    model_.for_each_router([&](int64_t, Router& router) {
      const auto span = router.counts_E.span<int64_t>();
      out.emplace_back(span.begin(), span.end());
    });
    return out;
  }
  void clear() {
    model_.for_each_router(
        [](int64_t, Router& router) { std::ranges::fill(router.counts_E.span<int64_t>(), 0); });
  }
  void train(bool counting) {
    const std::vector<float> scale = {1, 0.3F};
    Transformer::Options options;
    options.counting = counting;
    model_.forward_backward(batch(), scale, 0.01F, options, pass());
  }

  static constexpr int64_t kSequences = 3, kPositions = 17;
  std::vector<int32_t> tokens_ = std::vector<int32_t>(kSequences * (kPositions + 2));
  Transformer model_{tiny_config(), GetParam()};
  Arena saved_{size_t{64} << 20}, scratch_{size_t{64} << 20};
};

TEST_P(RouterCounts, Trap10EvaluatedAndTrainedAreCountedAlikeAndOnce) {
  Transformer::Options options;
  options.counting = true;
  // What was chosen, from the forward alone.
  Counts chosen;
  {
    const Arena::Scope scope(saved_);
    Transformer::Saved saved;
    model_.forward(batch(), {}, saved, pass());
    const auto count = [&](const Block::Saved& block) {
      chosen.emplace_back(8);
      for (const int32_t e : block.moe.route.experts_TK.span<int32_t>()) ++chosen.back()[e];
    };
    for (size_t n = 1; n < saved.blocks.size(); ++n) count(saved.blocks[n]);
    for (const auto& mtp : saved.mtp) count(mtp.block);
  }
  EXPECT_EQ(counts(), Counts(chosen.size(), std::vector<int64_t>(8)));  // nobody asked

  model_.evaluate(batch(), options, {}, {}, pass());
  EXPECT_EQ(counts(), chosen);
  clear();
  train(true);  // the backward reads what the forward kept, and counts nothing
  EXPECT_EQ(counts(), chosen);
  train(false);
  model_.evaluate(batch(), {}, {}, {}, pass());
  EXPECT_EQ(counts(), chosen);
  for (const auto& layer : counts()) {
    EXPECT_EQ(std::accumulate(layer.begin(), layer.end(), int64_t{0}),
              kSequences * kPositions * tiny_config().num_experts_per_tok);
  }
  // Micro-batches add up: twice the batch is twice the counts.
  train(true);
  for (auto& layer : chosen) {
    for (int64_t& count : layer) count *= 2;
  }
  EXPECT_EQ(counts(), chosen);
}

INSTANTIATE_TEST_SUITE_P(Precisions, RouterCounts,
                         testing::Values(Precision::kF32, Precision::kBF16));

}  // namespace
}  // namespace minke::model
