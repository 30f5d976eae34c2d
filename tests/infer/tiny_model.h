// A small random model to decode with: odd sizes, and more layers than one of experts.
#pragma once

#include <memory>

#include "model/transformer.h"
#include "tiny_config.h"

namespace minke::infer {

inline model::ModelConfig tiny_config() {
  model::ModelConfig c = model::tiny_config();
  c.vocab_size = 61;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 3;
  c.v_head_dim = 6;
  c.intermediate_size = 40;
  c.moe_intermediate_size = 10;
  c.num_experts_per_tok = 3;
  c.num_nextn_predict_layers = 0;
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
