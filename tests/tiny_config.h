// A model small enough for a test, with every part: a dense layer and one of experts, groups, a
// shared expert, a query latent, an MTP layer.
#pragma once

#include "model/config.h"

namespace minke::model {

inline ModelConfig tiny_config() {
  ModelConfig c;
  c.vocab_size = 37;
  c.hidden_size = 32;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.q_lora_rank = 12;
  c.kv_lora_rank = 16;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 8;
  c.intermediate_size = 48;
  c.moe_intermediate_size = 16;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.first_k_dense_replace = 1;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.num_nextn_predict_layers = 1;
  return c;
}

}  // namespace minke::model
