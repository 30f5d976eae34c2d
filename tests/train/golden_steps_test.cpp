// Steps of training against the float64 oracle's (tools/oracle/more_goldens.py): losses of every
// depth over their own valid positions, clipping, AdamW, the schedule and the routers' biases.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"
#include "golden.h"
#include "ops/isa.h"
#include "train/trainer.h"

namespace minke::train {
namespace {

// Of a whole model in FP32, see docs/NUMERICS.md.
constexpr double kBoundF32 = 1e-5;

class GoldenSteps : public testing::TestWithParam<ops::Isa> {
 protected:
  using Numbers = std::map<std::string, std::vector<float>>;

  void SetUp() override { ops::set_isa(GetParam()); }
  void TearDown() override { ops::set_isa(ops::available_isas().back()); }

  Tensor golden(const std::string& name) const { return file_.tensor(name); }
  int64_t steps() const { return golden("tokens").dim(0); }
  // As the oracle has it.
  Options options() const {
    Options o;
    o.data = {"-"};
    o.precision = model::Precision::kF32;
    o.steps = steps();
    o.batch = golden("tokens").dim(1);
    o.seq = golden("tokens").dim(2) - 1 - config_.num_nextn_predict_layers;
    o.mask_documents = true;
    o.lr = 1e-2;
    o.min_lr = 1e-3;
    o.warmup = 2;
    o.clip = 1.3;
    o.alpha = 1e-2;
    return o;
  }
  RowSource rows() const {
    return [this](int64_t index, std::span<int32_t> tokens, std::span<int32_t> documents) {
      const auto copy = [&](const char* name, std::span<int32_t> to) {
        const auto all = golden(name).span<int32_t>();
        std::ranges::copy(all.subspan(index * std::ssize(to), to.size()), to.begin());
      };
      copy("tokens", tokens);
      copy("documents", documents);
    };
  }
  static Numbers weights_of(model::Transformer& model) {
    Numbers out;
    model.for_each_weight([&](model::Weight& weight) {
      for (const model::Piece& piece : weight.pieces()) {
        const auto numbers = piece.value.span<float>();
        out[piece.name].assign(numbers.begin(), numbers.end());
      }
    });
    return out;
  }

  void expect_number(const char* name, int64_t at, double got) const {
    const auto want = double{golden(name).span<float>()[at]};
    EXPECT_NEAR(got, want, kBoundF32 * want) << name;
  }
  void expect_step(const StepReport& report, int64_t step, bool& clips, bool& does_not) const {
    SCOPED_TRACE(fmt::format("step {}", step));
    const int64_t losses = golden("loss").dim(1);
    expect_number("loss", step * losses, report.loss);
    for (int64_t k = 1; k < losses; ++k) {
      expect_number("loss", step * losses + k, report.mtp_loss[k - 1]);
    }
    expect_number("balance", step, report.balance);
    expect_number("gradient_norm", step, report.gradient_norm);
    expect_number("learning_rate", step, report.learning_rate);
    (report.clipped ? clips : does_not) = true;
    for (const RouterLoad& router : report.routers) {
      const auto at = [&](const char* what) {
        return golden(fmt::format("{}.{}", what, router.layer))[step];
      };
      const auto counts = at("counts").span<int32_t>();
      EXPECT_TRUE(std::ranges::equal(router.counts, counts));
      const auto bias = at("bias").span<float>();
      // Each step rounds it once, and the file once more; it is below 1.
      const double bound = static_cast<double>(step + 2) * kRoundoffF32;
      for (size_t e = 0; e < bias.size(); ++e) {
        EXPECT_NEAR(double{router.bias[e]}, double{bias[e]}, bound);
      }
    }
  }
  // By how much weights changed: norm of the difference over norm. AdamW moves every number by
  // about the learning rate, however small its gradient: one that is off by e times the root mean
  // square may change a step by min(1, e / |g|) of it, g normal, whose mean square is 4e / sqrt(2
  // pi). What that does to a loss is of second order, for such gradients are small.
  void expect_changes(const Numbers& before, const Numbers& after) const {
    for (const auto& [name, numbers] : after) {
      const auto want = golden("final." + name).span<float>();
      double error = 0, change = 0;
      for (size_t i = 0; i < numbers.size(); ++i) {
        error += std::pow(double{numbers[i]} - double{want[i]}, 2);
        change += std::pow(double{want[i]} - double{before.at(name)[i]}, 2);
      }
      EXPECT_GT(change, 0) << name;
      EXPECT_LE(std::sqrt(error / change), std::sqrt(1.6 * kBoundF32)) << name;
    }
  }

  const checkpoint::SafetensorsFile file_{kGolden / "v3-softmax-steps" / "steps.safetensors"};
  const checkpoint::CheckpointFolder folder_{kGolden / "v3-softmax"};
  const model::ModelConfig config_ =
      checkpoint::read_config(kGolden / "v3-softmax" / "config.json").model;
};

TEST_P(GoldenSteps, AreTheOracles) {
  for (const int64_t micro_batch : {0, 1}) {
    model::Transformer model(config_, model::Precision::kF32);
    checkpoint::load_weights(model, folder_, checkpoint::Use::kTraining);
    const Numbers before = weights_of(model);
    Options how = options();
    how.micro_batch = micro_batch;
    Trainer trainer(model, how, rows());
    bool clips = false, does_not = false;
    for (int64_t step = 0; step < steps(); ++step) {
      expect_step(trainer.step(), step, clips, does_not);
    }
    EXPECT_TRUE(clips && does_not);
    expect_changes(before, weights_of(model));
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, GoldenSteps, testing::ValuesIn(ops::available_isas()),
                         [](const auto& isa) { return std::string(ops::isa_name(isa.param)); });

}  // namespace
}  // namespace minke::train
