// What a run says it will take is what it takes.
#include "model/memory.h"

#include <gtest/gtest.h>

#include "checkpoint/hf_config.h"
#include "train/sizes.h"
#include "train/tiny.h"

namespace minke::train {
namespace {

using model::Precision;

void expect_close(size_t measured, size_t stated, const std::string& what) {
  EXPECT_LE(measured, stated) << what;
  EXPECT_GE(static_cast<double>(measured), 0.95 * static_cast<double>(stated)) << what;
}

void expect_as_stated(const model::ModelConfig& config, Precision precision, int64_t batch,
                      int64_t micro_batch, int64_t seq, model::Recompute recompute) {
  Options options = tiny_options();
  options.batch = batch;
  options.micro_batch = micro_batch;
  options.seq = seq;
  options.recompute = recompute;
  model::Transformer model(config, precision);
  model.initialize(1);
  Trainer trainer(model, options, counting_rows);
  trainer.step();
  const auto stated = model::step_memory(config, precision, micro_batch, seq, options.recompute);
  expect_close(trainer.peak_activations(), stated.activations, "activations");
  expect_close(trainer.peak_workspace(), stated.workspace, "workspace");
  size_t weights = 0, gradients = 0, moments = 0;
  model.for_each_weight([&](model::Weight& w) {
    weights += w.master().bytes();
    gradients += w.gradient().bytes();
  });
  for (const auto& m : trainer.optimizer().moments()) moments += m.m.bytes() + m.v.bytes();
  EXPECT_EQ(weights, stated.weights);
  EXPECT_EQ(gradients, stated.gradients);
  EXPECT_EQ(moments, stated.moments);
  EXPECT_EQ(model.packed_size(true), stated.operands);
}

TEST(StepMemory, IsWhatAStepTakes) {
  auto plain = tiny_config();
  plain.num_nextn_predict_layers = 0;
  plain.first_k_dense_replace = plain.num_hidden_layers;
  plain.q_lora_rank = 0;
  auto two_depths = tiny_config();
  two_depths.num_nextn_predict_layers = 2;
  two_depths.n_shared_experts = 0;
  for (const auto& [name, recompute] : names(model::Recompute{})) {
    for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kFp8}) {
      SCOPED_TRACE(fmt::format("{} {}", name, spelling(precision)));
      expect_as_stated(tiny_config(), precision, 8, 8, 12, recompute);
      expect_as_stated(size_config("nano").model, precision, 4, 2, 64, recompute);
      expect_as_stated(plain, precision, 3, 3, 31, recompute);
      expect_as_stated(two_depths, precision, 6, 3, 40, recompute);
    }
  }
}

model::ModelConfig v3_shape() {
  return checkpoint::read_config(fs::path(MINKE_GOLDEN_DIR) / "configs/deepseek-v3.json").model;
}

// What FP8 is for on a CPU: at most 0.75 of BF16's activations at the same level, and with the
// paper's recomputation half of BF16's without any.
TEST(StepMemory, Fp8KeepsLess) {
  using model::Recompute;
  const auto ratio = [](const model::ModelConfig& config, Recompute fp8, Recompute bf16) {
    const auto kept = [&](Precision precision, Recompute recompute) {
      return static_cast<double>(
          model::step_memory(config, precision, 1, 4096, recompute).activations);
    };
    return kept(Precision::kFp8, fp8) / kept(Precision::kBF16, bf16);
  };
  for (const auto& config : {v3_shape(), size_config("small").model}) {
    EXPECT_LE(ratio(config, Recompute::kNone, Recompute::kNone), 0.75);
    EXPECT_LE(ratio(config, Recompute::kPaper, Recompute::kPaper), 0.75);
    EXPECT_LE(ratio(config, Recompute::kPaper, Recompute::kNone), 0.5);
  }
}

// The same bytes, and tokens counted once (trap 10).
TEST(Recompute, Trap10ChangesNothingButMemory) {
  for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kFp8}) {
    std::vector<std::byte> kept;
    std::vector<std::vector<int64_t>> counts;
    size_t most = SIZE_MAX;
    for (const auto& [name, recompute] : names(model::Recompute{})) {
      Options options = tiny_options();
      options.recompute = recompute;
      options.mask_documents = true;
      options.seq = 40;
      auto config = tiny_config();
      config.num_hidden_layers = 4;
      model::Transformer model(config, precision);
      model.initialize(1);
      Trainer trainer(model, options, counting_rows);
      std::vector<std::vector<int64_t>> now;
      for (int i = 0; i < 3; ++i) {
        for (const RouterLoad& router : trainer.step().routers) now.push_back(router.counts);
      }
      const auto bytes = state_bytes(model, trainer);
      if (kept.empty()) {
        kept = bytes;
        counts = now;
      }
      EXPECT_TRUE(bytes == kept) << name;
      EXPECT_EQ(now, counts) << name;
      EXPECT_LT(trainer.peak_activations(), most) << name;
      most = trainer.peak_activations();
    }
  }
}

}  // namespace
}  // namespace minke::train
