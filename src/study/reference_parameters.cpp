#include "base/file.h"
#include "study/reference_model.h"

namespace minke::study {
namespace {

using Shapes = std::vector<std::pair<std::string, std::vector<int64_t>>>;

void add_ffn(Shapes& shapes, const std::string& prefix, int64_t hidden, int64_t width) {
  shapes.push_back({prefix + "gate_proj.weight", {width, hidden}});
  shapes.push_back({prefix + "up_proj.weight", {width, hidden}});
  shapes.push_back({prefix + "down_proj.weight", {hidden, width}});
}

void add_attention(Shapes& shapes, const model::ModelConfig& c, const std::string& prefix) {
  const int64_t d = c.hidden_size, heads = c.num_attention_heads;
  const int64_t q_width = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
  if (c.q_lora_rank > 0) {
    shapes.push_back({prefix + "q_a_proj.weight", {c.q_lora_rank, d}});
    shapes.push_back({prefix + "q_a_layernorm.weight", {c.q_lora_rank}});
    shapes.push_back({prefix + "q_b_proj.weight", {q_width, c.q_lora_rank}});
  } else {
    shapes.push_back({prefix + "q_proj.weight", {q_width, d}});
  }
  shapes.push_back(
      {prefix + "kv_a_proj_with_mqa.weight", {c.kv_lora_rank + c.qk_rope_head_dim, d}});
  shapes.push_back({prefix + "kv_a_layernorm.weight", {c.kv_lora_rank}});
  shapes.push_back(
      {prefix + "kv_b_proj.weight", {heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank}});
  shapes.push_back({prefix + "o_proj.weight", {d, heads * c.v_head_dim}});
}

void add_moe(Shapes& shapes, const model::ModelConfig& c, const std::string& prefix) {
  shapes.push_back({prefix + "gate.weight", {c.n_routed_experts, c.hidden_size}});
  if (c.topk_method == ops::TopkMethod::kNoauxTc) {
    shapes.push_back({prefix + "gate.e_score_correction_bias", {c.n_routed_experts}});
  }
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    add_ffn(shapes, fmt::format("{}experts.{}.", prefix, e), c.hidden_size,
            c.moe_intermediate_size);
  }
  if (c.n_shared_experts > 0) {
    add_ffn(shapes, prefix + "shared_experts.", c.hidden_size,
            c.moe_intermediate_size * c.n_shared_experts);
  }
}

}  // namespace

Shapes parameter_shapes(const model::ModelConfig& c) {
  const int64_t d = c.hidden_size;
  Shapes shapes{{"model.embed_tokens.weight", {c.vocab_size, d}}};
  for (int64_t n = 0; n < c.num_hidden_layers + c.num_nextn_predict_layers; ++n) {
    const std::string prefix = fmt::format("model.layers.{}.", n);
    const bool mtp = n >= c.num_hidden_layers;
    if (mtp) {
      shapes.push_back({prefix + "enorm.weight", {d}});
      shapes.push_back({prefix + "hnorm.weight", {d}});
      shapes.push_back({prefix + "eh_proj.weight", {d, 2 * d}});
    }
    shapes.push_back({prefix + "input_layernorm.weight", {d}});
    add_attention(shapes, c, prefix + "self_attn.");
    shapes.push_back({prefix + "post_attention_layernorm.weight", {d}});
    if (n < c.first_k_dense_replace) {
      add_ffn(shapes, prefix + "mlp.", d, c.intermediate_size);
    } else {
      add_moe(shapes, c, prefix + "mlp.");
    }
    if (mtp) shapes.push_back({prefix + "shared_head.norm.weight", {d}});
  }
  shapes.push_back({"model.norm.weight", {d}});
  shapes.push_back({"lm_head.weight", {c.vocab_size, d}});
  return shapes;
}

ref::Routing reference_routing(const model::ModelConfig& c) {
  ref::Routing how;
  how.experts = c.n_routed_experts;
  how.chosen = c.num_experts_per_tok;
  how.scoring =
      c.scoring_func == ops::Scoring::kSigmoid ? ref::Scoring::kSigmoid : ref::Scoring::kSoftmax;
  how.normalize = c.norm_topk_prob;
  how.scale = c.routed_scaling_factor;
  switch (c.topk_method) {
    case ops::TopkMethod::kGreedy:
      how.method = ref::TopkMethod::kGreedy;
      return how;
    case ops::TopkMethod::kGroupLimitedGreedy:
      how.method = ref::TopkMethod::kGroupLimitedGreedy;
      break;
    case ops::TopkMethod::kNoauxTc:
      how.method = ref::TopkMethod::kNoauxTc;
      break;
  }
  how.groups = c.n_group;
  how.chosen_groups = c.topk_group;
  return how;
}

void check_reference_fits(const model::ModelConfig& config, int64_t runs) {
  double parameters = 0;
  for (const auto& [name, dims] : parameter_shapes(config)) {
    double count = 1;
    for (const int64_t n : dims) count *= static_cast<double>(n);
    parameters += count;
  }
  const double needed = parameters * sizeof(double) * static_cast<double>(1 + 2 * runs);
  const auto free = static_cast<double>(free_memory_bytes());
  if (needed > free) {
    fail(
        "the float64 reference of {:.2e} parameters needs about {:.1f} GB of memory, {:.1f} GB are "
        "free: use {}a smaller model of the same architecture",
        parameters, needed / 1e9, free / 1e9, runs > 1 ? "fewer threads (--threads), or " : "");
  }
}

}  // namespace minke::study
