// What a DeepSeek-V2/V3 model is: the fields of its Hugging Face config.json, by their names there.
//
// Architecture facts are fields, never inferred from a width. check() refuses what the family does
// not define; it is called by whoever makes a config, and the modules rely on it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/router.h"

namespace minke::model {

// rope_scaling of type yarn. mscale absent: amplitude 0.1 ln(factor) + 1. mscale_all_dim absent is
// 0: no factor on the scores.
struct YarnScaling {
  double factor = 1;
  int64_t original_max_position_embeddings = 4096;
  double beta_fast = 32, beta_slow = 1;
  std::optional<double> mscale;
  double mscale_all_dim = 0;
  friend bool operator==(const YarnScaling&, const YarnScaling&) = default;
};

// quantization_config of FP8 files: E4M3 codes with a scale for each block.
struct Fp8Blocks {
  int64_t rows = 128, cols = 128;
  bool ue8m0 = false;  // scale_fmt: scales are powers of two
  // What `minke quantize` may make of the experts' and the head's weights instead: integers of 8 or
  // 4 bits with scales (tensor/integers.h); 0: what other files have. The shared experts and the
  // head are of 8 bits where they are integers.
  int64_t expert_bits = 0, head_bits = 0;
  friend bool operator==(const Fp8Blocks&, const Fp8Blocks&) = default;
};

// Hugging Face and DeepSeek's own code use this for the norms of the two latents, whatever
// rms_norm_eps says.
inline constexpr double kLatentNormEps = 1e-6;

struct ModelConfig {
  std::string model_type = "deepseek_v3";
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t q_lora_rank = 0;  // 0: null, one q_proj
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  int64_t intermediate_size = 0;
  int64_t moe_intermediate_size = 0;
  int64_t n_routed_experts = 0;
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t first_k_dense_replace = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  ops::Scoring scoring_func = ops::Scoring::kSigmoid;
  ops::TopkMethod topk_method = ops::TopkMethod::kNoauxTc;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  double rope_theta = 10000;
  std::optional<YarnScaling> rope_scaling;
  int64_t max_position_embeddings = 4096;
  double rms_norm_eps = 1e-6;
  int64_t num_nextn_predict_layers = 0;
  double initializer_range = 0.02;
  int64_t bos_token_id = 0;                 // -1: none
  std::vector<int64_t> eos_token_id = {1};  // may be none
  std::optional<Fp8Blocks> quantization;

  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;

  // Error naming the field, what it is, and what it must be. A config that passes has sizes whose
  // products, over a whole model, fit in 63 bits.
  void check() const;

  // Layers in all, MTP's included: MTP layer k (from 0) has index num_hidden_layers + k.
  int64_t layers() const { return num_hidden_layers + num_nextn_predict_layers; }
  bool is_dense(int64_t layer) const { return layer < first_k_dense_replace; }
  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  int64_t latent_width() const {
    return kv_lora_rank + qk_rope_head_dim;
  }  // a token's cache, a layer
  ops::Routing routing() const;
};

// Calls visit(name, field) for every field that a config.json holds as a plain number, string, bool
// or enum, with Hugging Face's name; the structured ones (rope_scaling, eos_token_id,
// quantization_config) are the reader's.
template <typename Config, typename Visit>
void visit_fields(Config& c, Visit&& visit) {
  visit("model_type", c.model_type);
  visit("vocab_size", c.vocab_size);
  visit("hidden_size", c.hidden_size);
  visit("num_hidden_layers", c.num_hidden_layers);
  visit("num_attention_heads", c.num_attention_heads);
  visit("q_lora_rank", c.q_lora_rank);
  visit("kv_lora_rank", c.kv_lora_rank);
  visit("qk_nope_head_dim", c.qk_nope_head_dim);
  visit("qk_rope_head_dim", c.qk_rope_head_dim);
  visit("v_head_dim", c.v_head_dim);
  visit("intermediate_size", c.intermediate_size);
  visit("moe_intermediate_size", c.moe_intermediate_size);
  visit("n_routed_experts", c.n_routed_experts);
  visit("n_shared_experts", c.n_shared_experts);
  visit("num_experts_per_tok", c.num_experts_per_tok);
  visit("first_k_dense_replace", c.first_k_dense_replace);
  visit("n_group", c.n_group);
  visit("topk_group", c.topk_group);
  visit("scoring_func", c.scoring_func);
  visit("topk_method", c.topk_method);
  visit("norm_topk_prob", c.norm_topk_prob);
  visit("routed_scaling_factor", c.routed_scaling_factor);
  visit("rope_theta", c.rope_theta);
  visit("max_position_embeddings", c.max_position_embeddings);
  visit("rms_norm_eps", c.rms_norm_eps);
  visit("num_nextn_predict_layers", c.num_nextn_predict_layers);
  visit("initializer_range", c.initializer_range);
  visit("bos_token_id", c.bos_token_id);
}

}  // namespace minke::model
