#include "model/config.h"

#include <gmock/gmock.h>

#include <functional>
#include <limits>

#include "base/error.h"

namespace minke::model {
namespace {

using testing::HasSubstr;
using testing::Throws;

ModelConfig sound() {
  ModelConfig c;
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
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.first_k_dense_replace = 1;
  c.n_group = 4;
  c.topk_group = 2;
  c.num_nextn_predict_layers = 1;
  c.rope_scaling.emplace();
  return c;
}

ModelConfig sound_v2() {
  ModelConfig c = sound();
  c.model_type = "deepseek_v2";
  c.scoring_func = ops::Scoring::kSoftmax;
  c.topk_method = ops::TopkMethod::kGroupLimitedGreedy;
  c.norm_topk_prob = false;
  return c;
}

void expect_fault(ModelConfig c, const std::function<void(ModelConfig&)>& edit,
                  const std::string& message) {
  EXPECT_NO_THROW(c.check());
  edit(c);
  EXPECT_THAT([&] { c.check(); },
              Throws<Error>(testing::Property(&Error::what, HasSubstr(message))))
      << message;
}

TEST(ConfigTest, FaultsNameTheField) {
  expect_fault(
      sound(), [](auto& c) { c.vocab_size = 0; }, "vocab_size is 0, expected");
  expect_fault(
      sound(), [](auto& c) { c.hidden_size = int64_t{1} << 40; }, "hidden_size is");
  expect_fault(
      sound(), [](auto& c) { c.qk_rope_head_dim = 7; }, "qk_rope_head_dim is 7");
  expect_fault(
      sound(), [](auto& c) { c.first_k_dense_replace = 4; }, "first_k_dense_replace is 4");
  expect_fault(
      sound(), [](auto& c) { c.num_nextn_predict_layers = -1; }, "num_nextn_predict");
  expect_fault(
      sound(), [](auto& c) { c.routed_scaling_factor = 0; }, "routed_scaling_factor is 0");
  expect_fault(
      sound(), [](auto& c) { c.rms_norm_eps = 0; }, "rms_norm_eps is 0");
  expect_fault(
      sound(), [](auto& c) { c.rms_norm_eps = std::numeric_limits<double>::quiet_NaN(); },
      "rms_norm_eps is nan");
  expect_fault(
      sound(), [](auto& c) { c.bos_token_id = 97; }, "bos_token_id is 97");
  expect_fault(
      sound(), [](auto& c) { c.rope_theta = 1; }, "rope_theta is 1");
  expect_fault(
      sound(), [](auto& c) { c.rope_scaling->beta_slow = 33; }, "beta_fast is 32");
}

TEST(ConfigTest, Routers) {
  expect_fault(
      sound(), [](auto& c) { c.n_group = 3; }, "n_routed_experts is 8, expected a multiple");
  // A group is scored by its best two experts, so it must have two.
  expect_fault(
      sound(), [](auto& c) { c.n_group = 8; }, "n_group is 8, expected at most 4");
  expect_fault(
      sound(), [](auto& c) { c.topk_group = 5; }, "topk_group is 5");
  expect_fault(
      sound(), [](auto& c) { c.num_experts_per_tok = 5; }, "num_experts_per_tok is 5");
  expect_fault(
      sound(), [](auto& c) { c.model_type = "gpt"; }, "model_type is \"gpt\"");
  ModelConfig one_group = sound();
  one_group.n_group = one_group.topk_group = 1;
  one_group.num_experts_per_tok = 8;
  EXPECT_NO_THROW(one_group.check());
  ModelConfig kimi = sound();
  kimi.model_type = "kimi_k2";
  EXPECT_NO_THROW(kimi.check());
}

// The fields of a router say by themselves what is computed, in any combination.
TEST(ConfigTest, RoutersOfAnyKind) {
  using ops::Scoring, ops::TopkMethod;
  for (const char* model_type : {"deepseek_v2", "deepseek_v3"}) {
    for (const Scoring scoring : {Scoring::kSigmoid, Scoring::kSoftmax}) {
      for (const TopkMethod method :
           {TopkMethod::kGreedy, TopkMethod::kGroupLimitedGreedy, TopkMethod::kNoauxTc}) {
        ModelConfig c = sound();
        c.model_type = model_type;
        c.scoring_func = scoring;
        c.topk_method = method;
        c.routed_scaling_factor = 16;
        EXPECT_NO_THROW(c.check());
      }
    }
  }
  ModelConfig greedy = sound_v2();
  greedy.topk_method = TopkMethod::kGreedy;
  greedy.n_group = 3;
  greedy.num_experts_per_tok = 8;
  EXPECT_NO_THROW(greedy.check());
}

// Each size passes alone, and together they are no model.
TEST(ConfigTest, AbsurdSizesTogether) {
  expect_fault(
      sound(),
      [](auto& c) {
        c.hidden_size = c.moe_intermediate_size = 1 << 20;
        c.n_routed_experts = 1 << 14;
      },
      "parameters");
}

TEST(ConfigTest, Routing) {
  const ops::Routing how = sound().routing();
  EXPECT_EQ(how.experts, 8);
  EXPECT_EQ(how.chosen, 3);
  EXPECT_EQ(how.groups, 4);
  EXPECT_EQ(how.chosen_groups, 2);
  // Greedy knows no groups.
  ModelConfig greedy = sound_v2();
  greedy.topk_method = ops::TopkMethod::kGreedy;
  EXPECT_EQ(greedy.routing().groups, 1);
  EXPECT_EQ(greedy.routing().chosen_groups, 1);
}

}  // namespace
}  // namespace minke::model
