#include "model/config.h"

#include <array>
#include <cmath>
#include <string_view>

#include "base/error.h"

namespace minke::model {
namespace {

// Caps far above any model of the family, so low that no product of sizes overflows 63 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxLayers = int64_t{1} << 12;
constexpr int64_t kMaxHeads = int64_t{1} << 12;
constexpr int64_t kMaxExperts = int64_t{1} << 14;
constexpr int64_t kMaxPositions = int64_t{1} << 30;
constexpr int64_t kMaxPredictLayers = 64;
constexpr double kMaxParameters = 1e15;

void check_size(std::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    fail("{} is {}, expected an integer from {} to {}", field, value, low, high);
  }
}

// NaN fails too.
void check_number(std::string_view field, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    fail("{} is {}, expected a number from {} to {}", field, value, low, high);
  }
}

void check_sizes(const ModelConfig& c) {
  check_size("vocab_size", c.vocab_size, 2, kMaxVocab);
  check_size("hidden_size", c.hidden_size, 1, kMaxWidth);
  check_size("num_hidden_layers", c.num_hidden_layers, 1, kMaxLayers);
  check_size("num_attention_heads", c.num_attention_heads, 1, kMaxHeads);
  check_size("q_lora_rank", c.q_lora_rank, 0, kMaxWidth);
  check_size("kv_lora_rank", c.kv_lora_rank, 1, kMaxWidth);
  check_size("qk_nope_head_dim", c.qk_nope_head_dim, 1, kMaxWidth);
  check_size("qk_rope_head_dim", c.qk_rope_head_dim, 2, kMaxWidth);
  check_size("v_head_dim", c.v_head_dim, 1, kMaxWidth);
  check_size("intermediate_size", c.intermediate_size, 1, kMaxWidth);
  check_size("moe_intermediate_size", c.moe_intermediate_size, 1, kMaxWidth);
  check_size("n_routed_experts", c.n_routed_experts, 1, kMaxExperts);
  check_size("n_shared_experts", c.n_shared_experts, 0, kMaxExperts);
  check_size("first_k_dense_replace", c.first_k_dense_replace, 0, c.num_hidden_layers);
  check_size("num_nextn_predict_layers", c.num_nextn_predict_layers, 0, kMaxPredictLayers);
  check_size("max_position_embeddings", c.max_position_embeddings, 1, kMaxPositions);
  if (c.qk_rope_head_dim % 2 != 0) {
    fail("qk_rope_head_dim is {}, expected an even number: RoPE turns pairs", c.qk_rope_head_dim);
  }
  const auto d = [](int64_t n) { return static_cast<double>(n); };
  const double attention =
      d(c.hidden_size) * (d(c.q_lora_rank) + d(c.latent_width())) +
      d(c.num_attention_heads) *
          (d(c.qk_head_dim()) * d(c.q_lora_rank > 0 ? c.q_lora_rank : c.hidden_size) +
           d(c.kv_lora_rank) * d(c.qk_nope_head_dim + c.v_head_dim) +
           d(c.v_head_dim) * d(c.hidden_size));
  const double ffn = 3 * d(c.hidden_size) *
                     (d(c.intermediate_size) +
                      d(c.n_routed_experts + c.n_shared_experts) * d(c.moe_intermediate_size));
  const double parameters =
      d(c.layers()) * (attention + ffn) + 2 * d(c.vocab_size) * d(c.hidden_size);
  if (parameters > kMaxParameters) {
    fail("the sizes make about {:.1e} parameters, expected at most {:.0e}", parameters,
         kMaxParameters);
  }
}

// Returns how many experts the chosen groups hold.
int64_t check_groups(const ModelConfig& c) {
  check_size("n_group", c.n_group, 1, c.n_routed_experts);
  check_size("topk_group", c.topk_group, 1, c.n_group);
  if (c.n_routed_experts % c.n_group != 0) {
    fail("n_routed_experts is {}, expected a multiple of n_group, which is {}", c.n_routed_experts,
         c.n_group);
  }
  const int64_t group = c.n_routed_experts / c.n_group;
  if (c.topk_method == ops::TopkMethod::kNoauxTc && c.n_group > 1 && group < 2) {
    fail(
        "n_group is {}, expected at most {}: noaux_tc scores a group by its best two experts, of "
        "{} in all",
        c.n_group, c.n_routed_experts / 2, c.n_routed_experts);
  }
  return group * c.topk_group;
}

void check_router(const ModelConfig& c) {
  using ops::TopkMethod;
  if (c.model_type != "deepseek_v3" && c.model_type != "deepseek_v2" && c.model_type != "kimi_k2") {
    fail("model_type is \"{}\", expected deepseek_v3, deepseek_v2 or kimi_k2", c.model_type);
  }
  // Any scoring_func with any topk_method, whatever the model_type: each says by itself what is
  // computed. (Weights are scaled whether they are normalised or not; V2's own code scales only
  // where it does not normalise, but no release has both.) Greedy reads no groups, so they may be
  // anything.
  const bool grouped = c.topk_method != TopkMethod::kGreedy;
  const int64_t reachable = grouped ? check_groups(c) : c.n_routed_experts;
  check_size("num_experts_per_tok", c.num_experts_per_tok, 1, reachable);
  check_number("routed_scaling_factor", c.routed_scaling_factor, 1e-6, 1e6);
}

void check_rope(const ModelConfig& c) {
  check_number("rope_theta", c.rope_theta, 1.0001, 1e12);
  if (!c.rope_scaling) return;
  const YarnScaling& yarn = *c.rope_scaling;
  check_number("rope_scaling.factor", yarn.factor, 1, 1e6);
  check_size("rope_scaling.original_max_position_embeddings", yarn.original_max_position_embeddings,
             1, kMaxPositions);
  check_number("rope_scaling.beta_slow", yarn.beta_slow, 1e-6, 1e6);
  check_number("rope_scaling.beta_fast", yarn.beta_fast, yarn.beta_slow, 1e6);
  if (yarn.mscale) check_number("rope_scaling.mscale", *yarn.mscale, 0, 100);
  check_number("rope_scaling.mscale_all_dim", yarn.mscale_all_dim, 0, 100);
}

}  // namespace

void ModelConfig::check() const {
  check_sizes(*this);
  check_router(*this);
  check_rope(*this);
  check_number("rms_norm_eps", rms_norm_eps, 1e-30, 1);
  check_number("initializer_range", initializer_range, 0, 10);
  check_size("bos_token_id", bos_token_id, -1, vocab_size - 1);
  for (const int64_t eos : eos_token_id) check_size("eos_token_id", eos, 0, vocab_size - 1);
  if (quantization) {
    check_size("quantization_config.weight_block_size[0]", quantization->rows, 1, kMaxWidth);
    check_size("quantization_config.weight_block_size[1]", quantization->cols, 1, kMaxWidth);
    const int64_t experts = quantization->expert_bits, head = quantization->head_bits;
    if (experts != 0 && experts != 4 && experts != 8) {
      fail("quantization_config.experts_bits is {}, expected 4 or 8", experts);
    }
    if (head != 0 && head != 8) fail("quantization_config.head_bits is {}, expected 8", head);
  }
}

ops::Routing ModelConfig::routing() const {
  ops::Routing how;
  how.experts = n_routed_experts;
  how.chosen = num_experts_per_tok;
  // Plain greedy chooses over all experts, whatever the config says of groups.
  const bool grouped = topk_method != ops::TopkMethod::kGreedy;
  how.groups = grouped ? n_group : 1;
  how.chosen_groups = grouped ? topk_group : 1;
  how.scoring = scoring_func;
  how.method = topk_method;
  how.normalize = norm_topk_prob;
  how.scale = static_cast<float>(routed_scaling_factor);
  return how;
}

}  // namespace minke::model
