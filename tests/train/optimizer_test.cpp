// What an optimizer does besides AdamW itself (tests/ops): averages of the weights, and what
// decays.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/thread_pool.h"
#include "train/tiny.h"

namespace minke::train {
namespace {

std::vector<double> numbers_of(const Tensor& tensor) {
  const auto values = tensor.span<float>();
  return {values.begin(), values.end()};
}

std::vector<std::vector<double>> all_weights(model::Transformer& model) {
  std::vector<std::vector<double>> out;
  model.for_each_weight([&](model::Weight& w) { out.push_back(numbers_of(w.master())); });
  model.for_each_router([&](int64_t, model::Router& r) { out.push_back(numbers_of(r.bias_E)); });
  return out;
}

TEST(Averages, AreTheMeanOfTheWeightsAfterEachStep) {
  Options o = tiny_options();
  o.ema = 0.8;
  constexpr int kSteps = 6;
  model::Transformer model(tiny_config(), model::Precision::kF32);
  model.initialize(7);
  Trainer trainer(model, o, counting_rows);
  std::vector<std::vector<double>> sums;
  double total = 0;
  for (int i = 0; i < kSteps; ++i) {
    trainer.step();
    const auto now = all_weights(model);
    sums.resize(now.size());
    total = o.ema * total + 1;
    for (size_t t = 0; t < now.size(); ++t) {
      sums[t].resize(now[t].size());
      for (size_t j = 0; j < now[t].size(); ++j) sums[t][j] = o.ema * sums[t][j] + now[t][j];
    }
  }
  const auto& averages = trainer.optimizer().averages();
  std::vector<std::vector<double>> got;
  for (const OwnedTensor& w : averages.weights) got.push_back(numbers_of(w));
  for (const OwnedTensor& b : averages.biases) got.push_back(numbers_of(b));
  ASSERT_EQ(got.size(), sums.size());
  for (size_t t = 0; t < got.size(); ++t) {
    double largest = 0;
    for (const double s : sums[t]) largest = std::max(largest, std::abs(s / total));
    ASSERT_GT(largest, 0);
    // A step rounds the rate, a difference of at most twice the largest, a product and a sum.
    const double bound = kSteps * 8 * kRoundoffF32 * largest;
    for (size_t j = 0; j < got[t].size(); ++j) {
      ASSERT_NEAR(got[t][j], sums[t][j] / total, bound) << t << ", " << j;
    }
  }
}

// A step that is skipped is no update: not of the averages, and not of the moments, whose
// correction counts updates.
TEST(Averages, ASkippedStepIsNoUpdate) {
  Options o = tiny_options();
  o.ema = 0.999;
  o.on_spike = OnSpike::kSkip;
  model::Transformer model(tiny_config(), model::Precision::kF32);
  model.initialize(7);
  Trainer trainer(model, o, counting_rows);
  auto& first = *static_cast<float*>([&] {
    void* at = nullptr;
    model.for_each_weight([&](model::Weight& w) {
      if (w.pieces()[0].name == "lm_head.weight") at = w.master().raw();
    });
    return at;
  }());
  const float good = std::exchange(first, INFINITY);
  model.prepare(true);
  EXPECT_FALSE(trainer.step().spike.finite);
  first = good;
  model.prepare(true);
  EXPECT_FALSE(trainer.step().spike.spike);
  EXPECT_EQ(trainer.position().done, 2);
  EXPECT_EQ(trainer.position().updates, 1);
  // After one update they are the weights.
  const auto weights = all_weights(model);
  std::vector<std::vector<double>> averages;
  for (const auto& w : trainer.optimizer().averages().weights) averages.push_back(numbers_of(w));
  for (const auto& b : trainer.optimizer().averages().biases) averages.push_back(numbers_of(b));
  EXPECT_EQ(averages, weights);
}

// A look at the averages leaves no trace, in the weights or in what is computed after it.
TEST(Averages, InPlaceOfTheWeightsAndBackAgain) {
  Options o = tiny_options();
  o.ema = 0.9;
  const auto run = [&](bool look) {
    model::Transformer model(tiny_config(), model::Precision::kBF16);
    model.initialize(7);
    Trainer trainer(model, o, counting_rows);
    for (int i = 0; i < 3; ++i) {
      trainer.step();
      if (!look) continue;
      const auto weights = all_weights(model);
      const AveragesInPlace averages(trainer.optimizer());
      EXPECT_EQ(i > 0, all_weights(model) != weights);  // after one step they are the weights
    }
    return state_bytes(model, trainer);
  };
  EXPECT_EQ(run(false), run(true));
}

TEST(Averages, DoNotChangeTheTraining) {
  std::vector<std::vector<double>> weights[2];
  for (const double ema : {0.0, 0.9}) {
    Options o = tiny_options();
    o.ema = ema;
    model::Transformer model(tiny_config(), model::Precision::kBF16);
    model.initialize(7);
    Trainer trainer(model, o, counting_rows);
    for (int i = 0; i < 3; ++i) trainer.step();
    weights[ema > 0 ? 1 : 0] = all_weights(model);
  }
  EXPECT_EQ(weights[0], weights[1]);
}

// With a gradient of nothing a weight that decays shrinks, and any other stays as it is.
std::vector<std::string> decayed(const std::vector<std::string>& no_decay) {
  Options o = tiny_options();
  o.weight_decay = 0.5;
  o.no_decay = no_decay;
  model::Transformer model(tiny_config(), model::Precision::kF32);
  model.initialize(7);
  model.attach_gradients();
  model.prepare(true);
  Optimizer optimizer(model, o);
  const auto before = all_weights(model);
  optimizer.step({.update = 1, .learning_rate = 0.1});
  const auto after = all_weights(model);
  std::vector<std::string> out;
  size_t i = 0;
  model.for_each_weight([&](model::Weight& w) {
    if (before[i] != after[i]) {
      EXPECT_NEAR(after[i][0], 0.95 * before[i][0], 1e-6);
      out.push_back(w.pieces()[0].name);
    }
    ++i;
  });
  return out;
}

TEST(Decay, IsForMatricesAloneAndForFewerWhereAsked) {
  const auto matrices = decayed({});
  const auto has = [](const std::vector<std::string>& names, std::string_view part) {
    return std::ranges::any_of(names, [&](const std::string& n) { return n.ends_with(part); });
  };
  EXPECT_FALSE(has(matrices, "norm.weight"));
  for (const char* name : {"embed_tokens.weight", "lm_head.weight", "mlp.gate.weight"}) {
    EXPECT_TRUE(has(matrices, name)) << name;
  }
  const auto fewer = decayed({"embedding", "head", "router"});
  EXPECT_EQ(fewer.size(), matrices.size() - 4);  // there are two routers
  for (const char* name : {"norm.weight", "embed_tokens.weight", "lm_head.weight", "gate.weight"}) {
    EXPECT_FALSE(has(fewer, name)) << name;
  }
  EXPECT_TRUE(has(fewer, "o_proj.weight"));
}

}  // namespace
}  // namespace minke::train
