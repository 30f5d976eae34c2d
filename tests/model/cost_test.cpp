#include "model/cost.h"

#include <gtest/gtest.h>

#include <limits>

#include "model/transformer.h"

namespace minke::model {
namespace {

ModelConfig v3() {
  ModelConfig c;
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.num_hidden_layers = 61;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 8;
  c.first_k_dense_replace = 3;
  c.n_group = 8;
  c.topk_group = 4;
  c.num_nextn_predict_layers = 1;
  return c;
}

ModelConfig kimi_k2() {
  ModelConfig c = v3();
  c.vocab_size = 163840;
  c.num_attention_heads = 64;
  c.n_routed_experts = 384;
  c.first_k_dense_replace = 1;
  c.n_group = c.topk_group = 1;
  c.num_nextn_predict_layers = 0;
  return c;
}

ModelConfig moonlight() {
  ModelConfig c = v3();
  c.vocab_size = 163840;
  c.hidden_size = 2048;
  c.num_hidden_layers = 27;
  c.num_attention_heads = 16;
  c.q_lora_rank = 0;
  c.intermediate_size = 11264;
  c.moe_intermediate_size = 1408;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.first_k_dense_replace = 1;
  c.n_group = c.topk_group = 1;
  c.num_nextn_predict_layers = 0;
  return c;
}

ModelConfig v2_lite() {
  ModelConfig c = moonlight();
  c.vocab_size = 102400;
  c.intermediate_size = 10944;
  c.scoring_func = ops::Scoring::kSoftmax;
  c.topk_method = ops::TopkMethod::kGreedy;
  return c;
}

// Published figures have two or three digits: equal once rounded to `digit`.
void expect_billions(int64_t count, double billions, double digit) {
  EXPECT_NEAR(static_cast<double>(count) / 1e9, billions, digit / 2);
}

TEST(Cost, PublishedParameters) {
  const ParameterCounts c = count_parameters(v3());
  EXPECT_EQ(c.total.total(), 671'026'419'200);  // what the released files' trunk holds
  expect_billions(c.active.without_embedding(), 36.6, 0.1);
  expect_billions(c.mtp_total.total(), 11.6, 0.1);
  expect_billions(c.mtp_total.total() - c.mtp_total.projection, 11.5, 0.1);

  const ParameterCounts lite = count_parameters(v2_lite());
  expect_billions(lite.total.total(), 15.7, 0.1);
  expect_billions(lite.active.without_embedding(), 2.45, 0.01);

  const ParameterCounts moon = count_parameters(moonlight());
  expect_billions(moon.total.total(), 16, 1);
  expect_billions(moon.active.without_embedding(), 2.58, 0.01);
  EXPECT_EQ(moon.mtp_total.total(), 0);

  const ParameterCounts kimi = count_parameters(kimi_k2());
  expect_billions(kimi.total.total(), 1000, 100);
  expect_billions(kimi.active.without_embedding(), 31.7, 0.1);
}

TEST(Cost, CacheOfAToken) {
  const CacheBytes bytes = cache_bytes(v3(), 2);
  EXPECT_EQ(bytes.latent, 70'272);
  EXPECT_EQ(bytes.mha, 4'997'120);
  EXPECT_EQ(bytes.gqa_heads, 16);
  EXPECT_EQ(bytes.gqa, 4'997'120 / 8);
  EXPECT_EQ(cache_bytes(v3(), 4).latent, 2 * 70'272);
  ModelConfig few = v3();
  few.num_attention_heads = 3;
  EXPECT_EQ(cache_bytes(few, 2).gqa_heads, 1);
}

TEST(Cost, TrainingFlops) {
  // Published: 250 GFLOP a token at 4,096 positions.
  const ModelConfig c = v3();
  const TrainFlops flops = train_flops_per_token(c, 4096, 0);
  EXPECT_NEAR(flops.total() / 1e9, 250, 0.5);
  EXPECT_EQ(flops.weights, 6.0 * 36'625'618'432);

  // Attention by counting: every query of a sequence against every key it sees.
  double counted = 0;
  constexpr int64_t kPositions = 5;
  for (int64_t query = 0; query < kPositions; ++query) {
    for (int64_t key = 0; key <= query; ++key) counted += 61.0 * 128 * (2 * 192 + 2 * 128) * 3;
  }
  EXPECT_EQ(train_flops_per_token(c, kPositions, 0).attention, counted / kPositions);

  // A depth of MTP: its own block, and the head once more.
  const double more =
      train_flops_per_token(c, 4096, 1).weights - train_flops_per_token(c, 4096, 0).weights;
  const ParameterCounts counts = count_parameters(c);
  EXPECT_EQ(more, 6.0 * static_cast<double>(counts.mtp_active.total() + counts.active.head));
}

// The formula against the weights that a model really makes.
TEST(Cost, EqualsTheWeightsOfAModel) {
  ModelConfig c = v3();
  c.vocab_size = 97;
  c.hidden_size = 64;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 4;
  c.q_lora_rank = 24;
  c.kv_lora_rank = 32;
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 12;
  c.intermediate_size = 96;
  c.moe_intermediate_size = 20;
  c.n_routed_experts = 8;
  c.num_experts_per_tok = 3;
  c.first_k_dense_replace = 1;
  c.n_group = 4;
  c.topk_group = 2;
  c.num_nextn_predict_layers = 2;
  for (const int64_t q_rank : {24, 0}) {
    for (const int64_t shared : {0, 2}) {
      for (const auto method : {ops::TopkMethod::kNoauxTc, ops::TopkMethod::kGreedy}) {
        c.q_lora_rank = q_rank;
        c.n_shared_experts = shared;
        const bool v3_router = method == ops::TopkMethod::kNoauxTc;
        c.topk_method = method;
        c.model_type = v3_router ? "deepseek_v3" : "deepseek_v2";
        c.scoring_func = v3_router ? ops::Scoring::kSigmoid : ops::Scoring::kSoftmax;
        c.norm_topk_prob = v3_router;
        c.n_group = v3_router ? 4 : 1;
        c.topk_group = v3_router ? 2 : 1;
        Transformer model(c, Precision::kF32);
        int64_t numbers = 0;
        model.for_each_weight([&](Weight& weight) { numbers += weight.numbers(); });
        model.for_each_router([&](int64_t, Router& router) {
          if (router.has_bias()) numbers += router.bias_E.count();
        });
        const ParameterCounts counts = count_parameters(c);
        EXPECT_EQ(numbers, counts.total.total() + counts.mtp_total.total());
        EXPECT_EQ(counts.total.total() - counts.active.total(), 2 * (8 - 3) * 3 * 64 * 20);
      }
    }
  }
}

TEST(Cost, SizesThatCannotBe) {
  ModelConfig c = v3();
  c.vocab_size = std::numeric_limits<int64_t>::max() / 2;
  EXPECT_THROW(count_parameters(c), Error);
}

}  // namespace
}  // namespace minke::model
