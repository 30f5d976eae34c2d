// The promises of a training step: any number of threads, any split into micro-batches,
// convergence.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/thread_pool.h"
#include "ops/isa.h"
#include "train/tiny.h"

namespace minke::train {
namespace {

struct TinyRun {
  model::Transformer model;
  Trainer trainer;
  TinyRun(const Options& o, model::Precision precision,
          const model::ModelConfig& config = tiny_config(), const RowSource& rows = counting_rows)
      : model(config, precision), trainer(start(model), o, rows) {}
  static model::Transformer& start(model::Transformer& m) {
    m.initialize(7);
    return m;
  }
};

// Documents of 1 to 13 tokens: rows have from none to all but a few positions with a target.
void uneven_rows(int64_t index, std::span<int32_t> tokens, std::span<int32_t> documents) {
  counting_rows(index, tokens, documents);
  const int64_t length = 1 + 3 * (index % 5);
  for (size_t i = 0; i < documents.size(); ++i) {
    documents[i] = static_cast<int32_t>(static_cast<int64_t>(i) / length);
  }
}

void expect_same_step(const StepReport& a, TinyRun& whole, TinyRun& parts) {
  const StepReport b = parts.trainer.step();
  ASSERT_EQ(a.routers.size(), b.routers.size());
  for (size_t i = 0; i < a.routers.size(); ++i) {
    EXPECT_EQ(a.routers[i].counts, b.routers[i].counts);
    EXPECT_EQ(a.routers[i].bias, b.routers[i].bias);
  }
  const double bound = 64 * std::sqrt(static_cast<double>(a.tokens)) * kRoundoffF32;
  EXPECT_NEAR(a.loss, b.loss, bound * a.loss);
  ASSERT_EQ(a.mtp_loss.size(), b.mtp_loss.size());
  for (size_t k = 0; k < a.mtp_loss.size(); ++k) {
    EXPECT_GT(a.mtp_loss[k], 0);
    EXPECT_NEAR(a.mtp_loss[k], b.mtp_loss[k], bound * a.mtp_loss[k]);
  }
  EXPECT_NEAR(a.balance, b.balance, bound * a.balance);
  std::vector<Tensor> other;
  parts.model.for_each_weight([&](model::Weight& w) { other.push_back(w.gradient()); });
  size_t i = 0;
  whole.model.for_each_weight([&](model::Weight& w) {
    const auto x = w.gradient().span<float>(), y = other[i++].span<float>();
    double difference = 0, norm = 0;
    for (size_t j = 0; j < x.size(); ++j) {
      difference += std::pow(static_cast<double>(x[j]) - y[j], 2);
      norm += std::pow(static_cast<double>(x[j]), 2);
    }
    EXPECT_GT(norm, 0) << w.pieces()[0].name;
    EXPECT_LE(std::sqrt(difference / norm), bound) << w.pieces()[0].name;
  });
}

class TrainerTest : public testing::TestWithParam<ops::Isa> {
 protected:
  void SetUp() override { ops::set_isa(GetParam()); }
  void TearDown() override {
    ops::set_isa(ops::available_isas().back());
    set_thread_count(2);
  }
};

TEST_P(TrainerTest, SameBytesForOneAndTwoThreads) {
  for (const auto precision : {model::Precision::kF32, model::Precision::kBF16}) {
    std::vector<std::byte> bytes[2];
    for (int threads = 1; threads <= 2; ++threads) {
      set_thread_count(threads);
      TinyRun run(tiny_options(), precision);
      for (int i = 0; i < 4; ++i) run.trainer.step();
      bytes[threads - 1] = state_bytes(run.model, run.trainer);
    }
    EXPECT_EQ(bytes[0], bytes[1]);
  }
}

// Traps 8 and 9. A batch of 8 and 8 micro-batches of 1 differ only in the order of sums over
// tokens: counts and bias are equal to the bit, and a gradient, a sum of T products that are each
// exact to a few roundings, to about sqrt(T) roundings of its norm; every loss is normalised over
// the whole batch in both, though rows have other numbers of valid positions, and MTP's depths too.
TEST_P(TrainerTest, Trap8And9MicroBatchesEqualTheBatch) {
  for (const int64_t depths : {0, 1, 2}) {
    for (const bool mask : {false, true}) {
      model::ModelConfig config = tiny_config();
      config.num_nextn_predict_layers = depths;
      Options o = tiny_options();
      o.mask_documents = mask;
      o.alpha = 0.1;  // so that a wrong scale of the sequence loss would show
      TinyRun whole(o, model::Precision::kF32, config, uneven_rows);
      const StepReport report = whole.trainer.step();
      for (const int64_t micro_batch : {1, 3}) {
        o.micro_batch = micro_batch;
        TinyRun parts(o, model::Precision::kF32, config, uneven_rows);
        expect_same_step(report, whole, parts);
      }
    }
  }
}

// The task is learnable to the last token, so the loss must fall from that of guessing, ln 37,
// below that of being left with two tokens, ln 2.
TEST_P(TrainerTest, LearnsToCount) {
  for (const auto precision : {model::Precision::kF32, model::Precision::kBF16}) {
    Options o = tiny_options();
    o.steps = 80;
    o.precision = precision;
    TinyRun run(o, precision);
    double loss = 0;
    for (int i = 0; i < 80; ++i) loss = run.trainer.step().loss;
    EXPECT_LT(loss, std::log(2.0));
  }
}

TEST_P(TrainerTest, BiasMovesTowardsIdleExperts) {
  TinyRun run(tiny_options(), model::Precision::kF32);
  const StepReport report = run.trainer.step();
  for (const RouterLoad& router : report.routers) {
    int64_t sum = 0;
    for (const int64_t c : router.counts) sum += c;
    EXPECT_EQ(sum % 2, 0);  // two experts a token
    const auto E = static_cast<int64_t>(router.counts.size());
    for (size_t e = 0; e < router.counts.size(); ++e) {
      const int64_t side = sum - E * router.counts[e];
      const double expected = side > 0 ? 1e-3 : side < 0 ? -1e-3 : 0;
      EXPECT_FLOAT_EQ(router.bias[e], static_cast<float>(expected));
    }
  }
}

// A look at the modules changes nothing, and says what the step changed.
TEST_P(TrainerTest, NormsByModuleAreOfTheStepThatIsTaken) {
  for (const auto precision : {model::Precision::kF32, model::Precision::kBF16}) {
    Options options = tiny_options();
    if (precision == model::Precision::kBF16) options.moments = MomentFormat::kBF16Random;
    TinyRun plain(options, precision), looked(options, precision);
    for (int i = 0; i < 3; ++i) {
      std::vector<std::vector<float>> before;
      looked.model.for_each_weight([&](model::Weight& w) {
        const auto values = w.master().span<float>();
        before.emplace_back(values.begin(), values.end());
      });
      plain.trainer.step();
      const StepReport report = looked.trainer.step(Trainer::Look::kModules);
      EXPECT_TRUE(state_bytes(plain.model, plain.trainer) ==
                  state_bytes(looked.model, looked.trainer));
      double squares = 0, stated = 0;
      size_t n = 0;
      looked.model.for_each_weight([&](model::Weight& w) {
        const auto after = w.master().span<float>();
        for (size_t j = 0; j < after.size(); ++j) {
          squares += std::pow(static_cast<double>(after[j]) - before[n][j], 2);
        }
        ++n;
      });
      for (const ModuleNorms& m : report.modules) stated += m.update * m.update;
      EXPECT_NEAR(std::sqrt(stated), std::sqrt(squares), 1e-12 * std::sqrt(squares));
      // Of two layers and an MTP module, the first dense: attention and norms three times, experts,
      // router and shared expert twice, one ffn, the projection, and the last norm; embedding,
      // head.
      EXPECT_EQ(report.modules.size(), 3U + 3 + 2 + 2 + 2 + 1 + 1 + 1 + 1 + 1);
    }
  }
}

TEST_P(TrainerTest, NonFiniteLossLeavesTheWeights) {
  TinyRun run(tiny_options(), model::Precision::kF32);
  run.trainer.step();
  model::Weight* head = nullptr;
  run.model.for_each_weight([&](model::Weight& w) { head = &w; });
  head->master().data<float>()[3] = INFINITY;
  run.model.prepare(true);
  const auto before = state_bytes(run.model, run.trainer);
  EXPECT_THROW(run.trainer.step(), Error);
  EXPECT_EQ(before, state_bytes(run.model, run.trainer));
  EXPECT_EQ(run.trainer.done(), 1);
}

INSTANTIATE_TEST_SUITE_P(Isas, TrainerTest, testing::ValuesIn(ops::available_isas()),
                         [](const auto& isa) { return std::string(ops::isa_name(isa.param)); });

}  // namespace
}  // namespace minke::train
