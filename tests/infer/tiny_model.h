// A small random model with every part that decoding passes through: a dense layer and MoE layers,
// groups, shared experts, a query latent.
#pragma once

#include <memory>

#include "model/transformer.h"

namespace minke::infer {

inline model::ModelConfig tiny_config() {
  model::ModelConfig c;
  c.vocab_size = 61;
  c.hidden_size = 32;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 3;
  c.q_lora_rank = 12;
  c.kv_lora_rank = 16;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 6;
  c.intermediate_size = 40;
  c.moe_intermediate_size = 10;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.first_k_dense_replace = 1;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.max_position_embeddings = 2048;
  c.initializer_range = 0.2;  // wide, so that logits differ well and text does not repeat itself
  c.eos_token_id = {1};
  return c;
}

inline std::unique_ptr<model::Transformer> tiny_model(
    model::Precision precision, const model::ModelConfig& config = tiny_config()) {
  auto out = std::make_unique<model::Transformer>(config, precision);
  out->initialize(11);
  out->prepare(false);
  out->prepare_decode();
  return out;
}

}  // namespace minke::infer
