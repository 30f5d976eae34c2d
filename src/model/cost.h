// What a model of a config costs: parameters, cache bytes and FLOPs, exactly and from the config
// alone, without a single weight.
//
// Conventions. Every number of a checkpoint counts once, the router's correction bias and all norm
// scales included; the copies of embedding and head that a file's MTP layer repeats do not count
// again. Active parameters are those that one token meets: of the routed experts,
// num_experts_per_tok; of the embedding, counted as its whole table or not at all, as asked. The
// trunk and the MTP modules are counted apart: published totals (671B, 37B) are the trunk's.
#pragma once

#include "model/config.h"

namespace minke::model {

// Parameters by component, of all layers together.
struct Parameters {
  int64_t embedding = 0;
  int64_t attention = 0;   // its two latent norms included
  int64_t dense = 0;       // feed-forward of the first layers
  int64_t router = 0;      // gates, and correction biases where there are some
  int64_t shared = 0;      // shared experts
  int64_t routed = 0;      // routed experts: all in a total, the chosen in what is active
  int64_t norms = 0;       // of the residual stream
  int64_t projection = 0;  // MTP's eh_proj
  int64_t head = 0;

  int64_t total() const {
    return embedding + attention + dense + router + shared + routed + norms + projection + head;
  }
  int64_t without_embedding() const { return total() - embedding; }
  int64_t without_embedding_and_head() const { return total() - embedding - head; }
};

struct ParameterCounts {
  Parameters total, active;          // the trunk
  Parameters mtp_total, mtp_active;  // all MTP modules; embedding and head are the trunk's: 0
};
// Error when a count does not fit 63 bits.
ParameterCounts count_parameters(const ModelConfig& config);

// Bytes that a token keeps in the caches of all trunk layers, in a type of `number` bytes.
struct CacheBytes {
  int64_t latent = 0;     // MLA: the latent and the roped key
  int64_t mha = 0;        // keys (qk_nope + qk_rope) and values (v) of every head
  int64_t gqa = 0;        // the same for gqa_heads key-value heads
  int64_t gqa_heads = 0;  // one for every 8 query heads, rounded up
};
CacheBytes cache_bytes(const ModelConfig& config, int64_t number);

// Model FLOPs to train on one token, forward and backward, in sequences of `positions` tokens, with
// `depths` MTP depths (at most num_nextn_predict_layers). A multiplication and an addition are two.
// Weights: 6 for each active parameter, with the head (once more a depth) and without the
// embedding. Attention: causal, so a token sees (positions + 1) / 2 keys on average; scores and
// values take 2 (qk + v) a head and key, three times with the backward. Recomputation earns
// nothing.
struct TrainFlops {
  double weights = 0, attention = 0;
  double total() const { return weights + attention; }
};
TrainFlops train_flops_per_token(const ModelConfig& config, int64_t positions, int64_t depths);

}  // namespace minke::model
