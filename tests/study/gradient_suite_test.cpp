// The engine against the reference for configs that no golden covers, made at random: every
// quantity that `verify` compares, gradients of all parameters included.
#include <gtest/gtest.h>

#include "base/rng.h"
#include "checkpoint/hf_config.h"
#include "ops/isa.h"
#include "study/verify.h"
#include "study/verify_write.h"

namespace minke::study {
namespace {

using model::ModelConfig;
using model::Precision;

// A norm of one number leaves its sign: the gradient before it is 0, and what is computed of it is
// rounding. Of a few numbers it is still a small difference.
constexpr int64_t kLeastNormed = 4;

// Draws of one seed.
class Draw {
 public:
  explicit Draw(uint64_t seed) : rng_(stream_key(seed, 0, "gradient suite")) {}
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(rng_.below(static_cast<uint64_t>(high - low + 1)));
  }
  bool sometimes() { return rng_.below(2) == 0; }

 private:
  Rng rng_;
};

void draw_attention(ModelConfig& c, Draw& draw) {
  c.num_attention_heads = draw.between(1, 5);
  c.q_lora_rank = draw.sometimes() ? draw.between(kLeastNormed, 40) : 0;
  c.kv_lora_rank = draw.between(kLeastNormed, 40);
  c.qk_nope_head_dim = draw.between(1, 20);
  c.qk_rope_head_dim = 2 * draw.between(1, 10);
  c.v_head_dim = draw.between(1, 20);
  c.rope_theta = draw.sometimes() ? 10000 : 50000;
  if (draw.sometimes()) return;
  model::YarnScaling& yarn = c.rope_scaling.emplace();
  yarn.factor = static_cast<double>(draw.between(1, 64));
  yarn.original_max_position_embeddings = draw.between(4, 4096);
  yarn.beta_fast = static_cast<double>(draw.between(1, 32));
  if (draw.sometimes()) yarn.mscale = draw.sometimes() ? 0.707 : 1.0;
  yarn.mscale_all_dim = draw.sometimes() ? 0.707 : draw.sometimes() ? 1.0 : 0.0;
}

void draw_router(ModelConfig& c, Draw& draw) {
  c.n_group = draw.between(1, 4);
  c.topk_group = draw.between(1, c.n_group);
  const int64_t group = draw.between(2, 5);
  c.n_routed_experts = c.n_group * group;
  c.n_shared_experts = draw.between(0, 2);
  const int64_t most = c.topk_group * group;
  c.num_experts_per_tok = draw.between(0, 3) == 0 ? most : draw.between(1, most);
  c.routed_scaling_factor = draw.sometimes() ? 1 : 2.5;
  c.norm_topk_prob = draw.sometimes();
  if (draw.between(0, 2) > 0) return;
  c.model_type = "deepseek_v2";
  c.scoring_func = ops::Scoring::kSoftmax;
  c.topk_method =
      draw.sometimes() ? ops::TopkMethod::kGreedy : ops::TopkMethod::kGroupLimitedGreedy;
  if (c.norm_topk_prob) c.routed_scaling_factor = 1;
}

ModelConfig draw_config(Draw& draw) {
  ModelConfig c;
  c.vocab_size = draw.between(2, 70);
  c.hidden_size = draw.between(kLeastNormed, 50);
  c.num_hidden_layers = draw.between(1, 4);
  c.first_k_dense_replace = draw.between(0, c.num_hidden_layers);
  c.intermediate_size = draw.between(1, 60);
  c.moe_intermediate_size = draw.between(1, 30);
  c.num_nextn_predict_layers = draw.between(0, 3);
  c.rms_norm_eps = draw.sometimes() ? 1e-6 : 1e-5;
  draw_attention(c, draw);
  draw_router(c, draw);
  c.check();
  return c;
}

WriteOptions draw_batch(const ModelConfig& c, uint64_t seed, Draw& draw) {
  WriteOptions out;
  out.seed = seed;
  out.sequences = draw.between(1, 4);
  out.positions = draw.between(c.num_nextn_predict_layers + 2, 40);
  out.documents = draw.sometimes();
  out.prompt = draw.between(1, std::min<int64_t>(out.positions, 9));
  out.text = draw.between(0, 8);
  return out;
}

class GradientSuite : public testing::TestWithParam<uint64_t> {
 protected:
  void expect_verified(Precision precision) {
    Draw draw(GetParam());
    const ModelConfig config = draw_config(draw);
    const TemporaryFolder folder;
    const std::string text = checkpoint::config_text({config, {}});
    write_file_atomic(folder / "config.json", text);
    WriteOptions options = draw_batch(config, GetParam(), draw);
    options.model = folder / "config.json";
    write_golden_folder(folder / "made", options);
    const GoldenFolder made = read_golden_folder(folder / "made");
    ASSERT_EQ(made.config.model, config);
    for (const Verdict& v : verify(made, {precision, {}}).verdicts) {
      EXPECT_TRUE(v.passed()) << v.quantity << ": " << v.error << ", bound " << v.bound << ", "
                              << v.worst << " " << v.note << "\n"
                              << text;
    }
  }
};

TEST_P(GradientSuite, F32) { expect_verified(Precision::kF32); }
INSTANTIATE_TEST_SUITE_P(Random, GradientSuite, testing::Range<uint64_t>(0, 32));

class RoundedGradientSuite : public GradientSuite {};
TEST_P(RoundedGradientSuite, BF16) { expect_verified(Precision::kBF16); }
INSTANTIATE_TEST_SUITE_P(Random, RoundedGradientSuite, testing::Range<uint64_t>(0, 12));

}  // namespace
}  // namespace minke::study
