#include "model/cost.h"

#include <algorithm>
#include <initializer_list>

#include "base/error.h"

namespace minke::model {
namespace {

// Products of a config's sizes. The caller's sums of a few dozen of them stay exact, since each is
// kept below 2^56.
int64_t product(std::initializer_list<int64_t> factors) {
  constexpr int64_t kMost = int64_t{1} << 56;
  int64_t out = 1;
  for (const int64_t factor : factors) {
    if (__builtin_mul_overflow(out, factor, &out) || out > kMost) {
      fail("config: the model would have more than 2^56 parameters; its sizes cannot be right");
    }
  }
  return out;
}

int64_t attention_parameters(const ModelConfig& c) {
  const int64_t d = c.hidden_size, q_width = product({c.num_attention_heads, c.qk_head_dim()});
  const int64_t kv_width = product({c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim});
  const int64_t q = c.q_lora_rank > 0 ? product({d, c.q_lora_rank}) + c.q_lora_rank +
                                            product({c.q_lora_rank, q_width})
                                      : product({d, q_width});
  const int64_t kv =
      product({d, c.latent_width()}) + c.kv_lora_rank + product({c.kv_lora_rank, kv_width});
  return q + kv + product({c.num_attention_heads, c.v_head_dim, d});
}

// `count` like blocks, with `experts` of the routed experts in each MoE layer.
void add_blocks(Parameters& out, const ModelConfig& c, int64_t count, bool dense, int64_t experts) {
  const int64_t d = c.hidden_size;
  out.attention += product({count, attention_parameters(c)});
  out.norms += product({count, 2, d});
  if (dense) {
    out.dense += product({count, 3, d, c.intermediate_size});
    return;
  }
  const int64_t bias = c.topk_method == ops::TopkMethod::kNoauxTc ? 1 : 0;
  out.router += product({count, c.n_routed_experts, d + bias});
  out.shared += product({count, c.n_shared_experts, 3, d, c.moe_intermediate_size});
  out.routed += product({count, experts, 3, d, c.moe_intermediate_size});
}

Parameters trunk(const ModelConfig& c, int64_t experts) {
  const int64_t dense = std::min(c.first_k_dense_replace, c.num_hidden_layers);
  Parameters out;
  out.embedding = out.head = product({c.vocab_size, c.hidden_size});
  out.norms = c.hidden_size;
  add_blocks(out, c, dense, true, experts);
  add_blocks(out, c, c.num_hidden_layers - dense, false, experts);
  return out;
}

Parameters mtp(const ModelConfig& c, int64_t modules, int64_t experts) {
  Parameters out;
  out.norms = product({modules, 3, c.hidden_size});  // enorm, hnorm, shared_head.norm
  out.projection = product({modules, 2, c.hidden_size, c.hidden_size});
  for (int64_t k = 0; k < modules; ++k) {
    add_blocks(out, c, 1, c.is_dense(c.num_hidden_layers + k), experts);
  }
  return out;
}

}  // namespace

ParameterCounts count_parameters(const ModelConfig& c) {
  return {trunk(c, c.n_routed_experts), trunk(c, c.num_experts_per_tok),
          mtp(c, c.num_nextn_predict_layers, c.n_routed_experts),
          mtp(c, c.num_nextn_predict_layers, c.num_experts_per_tok)};
}

CacheBytes cache_bytes(const ModelConfig& c, int64_t number) {
  constexpr int64_t kQueriesAKeyHead = 8;
  const int64_t each = c.qk_head_dim() + c.v_head_dim;
  CacheBytes out;
  out.gqa_heads = (c.num_attention_heads + kQueriesAKeyHead - 1) / kQueriesAKeyHead;
  out.latent = product({c.num_hidden_layers, c.latent_width(), number});
  out.mha = product({c.num_hidden_layers, c.num_attention_heads, each, number});
  out.gqa = product({c.num_hidden_layers, out.gqa_heads, each, number});
  return out;
}

TrainFlops train_flops_per_token(const ModelConfig& c, int64_t positions, int64_t depths) {
  MINKE_CHECK(depths >= 0 && depths <= c.num_nextn_predict_layers);
  const Parameters active = trunk(c, c.num_experts_per_tok);
  const int64_t extra =
      mtp(c, depths, c.num_experts_per_tok).total() + product({depths, active.head});
  const double keys = (static_cast<double>(positions) + 1) / 2;
  const auto widths = static_cast<double>(product(
      {c.num_hidden_layers + depths, c.num_attention_heads, c.qk_head_dim() + c.v_head_dim}));
  return {6.0 * static_cast<double>(active.without_embedding() + extra), 6.0 * keys * widths};
}

}  // namespace minke::model
