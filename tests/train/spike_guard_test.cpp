// What a jump is, and that one changes nothing.
#include "train/spike_guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/rng.h"
#include "train/tiny.h"

namespace minke::train {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

SpikeGuard after(int steps, double limit = 6) {
  SpikeGuard guard(limit);
  Rng rng(1);
  for (int i = 0; i < steps; ++i) guard.add(3 + 0.1 * rng.normal(), std::exp(0.2 * rng.normal()));
  return guard;
}

TEST(SpikeGuard, AJumpIsFarAboveTheStepsBefore) {
  const SpikeGuard guard = after(64);
  EXPECT_FALSE(guard.score(3.2, 1.3).spike);
  const SpikeScore loss = guard.score(4, 1), gradient = guard.score(3, 8);
  EXPECT_TRUE(loss.spike);
  EXPECT_NEAR(loss.loss_z, 10, 4);
  EXPECT_TRUE(gradient.spike);
  EXPECT_NEAR(gradient.gradient_z, std::log(8) / 0.2, 4);
  EXPECT_FALSE(guard.score(0.1, 0.001).spike);  // downwards is no fault
}

TEST(SpikeGuard, WhatIsNotFiniteIsAlwaysOne) {
  for (const int steps : {0, 64}) {
    const SpikeGuard guard = after(steps);
    EXPECT_TRUE(guard.score(kNan, 1).spike);
    EXPECT_TRUE(guard.score(3, std::numeric_limits<double>::infinity()).spike);
    EXPECT_FALSE(guard.score(kNan, 1).finite);
  }
  SpikeGuard guard = after(64);
  guard.add(kNan, 1);
  EXPECT_EQ(guard.steps().loss.size(), 64);
}

TEST(SpikeGuard, FewStepsSayNothing) {
  EXPECT_FALSE(after(static_cast<int>(SpikeGuard::kFewest) - 1).score(100, 100).spike);
  EXPECT_TRUE(after(static_cast<int>(SpikeGuard::kFewest)).score(100, 100).spike);
}

TEST(SpikeGuard, ALevelThatStaysIsMet) {
  SpikeGuard guard = after(200);
  EXPECT_EQ(guard.steps().loss.size(), SpikeGuard::kSteps);
  int refused = 0;
  while (guard.score(5, 1).spike && refused < 100) {
    guard.add(5, 1);
    ++refused;
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 100);
}

// Rows that count, save those of one step, which are noise.
constexpr int64_t kNoisyStep = 50;

struct WatchedRun {
  model::Transformer model;
  Trainer trainer;
  explicit WatchedRun(OnSpike on_spike, model::Precision precision = model::Precision::kF32)
      : model(tiny_config(), precision), trainer(start(model), options(on_spike), rows) {}
  static model::Transformer& start(model::Transformer& m) {
    m.initialize(7);
    return m;
  }
  static Options options(OnSpike on_spike) {
    Options o = tiny_options();
    o.steps = 80;
    o.on_spike = on_spike;
    return o;
  }
  static void rows(int64_t index, std::span<int32_t> tokens, std::span<int32_t> documents) {
    counting_rows(index, tokens, documents);
    if (index / tiny_options().batch + 1 != kNoisyStep) return;
    Rng rng(static_cast<uint64_t>(index));
    for (int32_t& token : tokens) token = static_cast<int32_t>(rng.below(37));
  }
};

TEST(Spikes, AStepThatIsOneChangesNothing) {
  for (const OnSpike action : {OnSpike::kSkip, OnSpike::kStop, OnSpike::kRollback}) {
    WatchedRun run(action);
    while (run.trainer.done() + 1 < kNoisyStep) {
      ASSERT_FALSE(run.trainer.step().spike.spike) << run.trainer.done();
    }
    const auto before = state_bytes(run.model, run.trainer);
    const StepReport report = run.trainer.step();
    EXPECT_TRUE(report.spike.spike);
    EXPECT_GT(report.spike.loss_z, 6);
    EXPECT_EQ(before, state_bytes(run.model, run.trainer));
    const bool skips = action == OnSpike::kSkip;
    EXPECT_EQ(run.trainer.done(), skips ? kNoisyStep : kNoisyStep - 1);
    if (!skips) continue;
    EXPECT_FALSE(run.trainer.step().spike.spike);
    EXPECT_NE(before, state_bytes(run.model, run.trainer));
  }
}

TEST(Spikes, ARunThatMeetsNoneIsTheSameWithTheGuard) {
  WatchedRun with(OnSpike::kSkip), without(OnSpike::kNone);
  for (int i = 0; i < 30; ++i) {
    with.trainer.step();
    without.trainer.step();
  }
  EXPECT_EQ(state_bytes(with.model, with.trainer), state_bytes(without.model, without.trainer));
}

// Whatever makes it so: the head, a weight whose codes have no scale then, what all of them read.
TEST(Spikes, WhatIsNotFiniteNeverReachesTheWeights) {
  for (const auto precision :
       {model::Precision::kF32, model::Precision::kBF16, model::Precision::kFp8}) {
    for (const std::string where : {"lm_head", "layers.1.self_attn.o_proj", "embed_tokens"}) {
      SCOPED_TRACE(fmt::format("{} {}", spelling(precision), where));
      WatchedRun run(OnSpike::kSkip, precision);
      run.trainer.step();
      run.model.for_each_weight([&](model::Weight& w) {
        const bool found = w.pieces()[0].name.find(where) != std::string::npos;
        if (found) w.master().data<float>()[3] = INFINITY;
      });
      run.model.prepare(true);
      const auto before = state_bytes(run.model, run.trainer);
      const StepReport report = run.trainer.step();
      EXPECT_FALSE(report.spike.finite);
      EXPECT_EQ(before, state_bytes(run.model, run.trainer));
      EXPECT_EQ(run.trainer.done(), 2);
    }
  }
}

}  // namespace
}  // namespace minke::train
