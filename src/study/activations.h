// What a model computes on the way through a text, by name: for study with other tools.
//
// Names, with N a layer; T tokens, in the run's activation type unless said otherwise:
//   tokens                       I32 [T]
//   layers.N.input               the residual stream before the layer [T, D]
//   layers.N.attention.input     normed
//   layers.N.attention.*         q_latent (its input q_latent_in, where queries have a latent), q,
//   kv_latent,
//                                k_rope, kv (keys without position, and values, of each head),
//                                output (before o_proj), log_sum_exp (FP32 [heads, T])
//   layers.N.middle              the residual stream after attention
//   layers.N.ffn.input           normed
//   layers.N.ffn.gate_up, .hidden            a dense layer's; hidden: SwiGLU's output
//   layers.N.router.scores       FP32 [T, E]; .experts I32 [T, K]; .weights FP32 [T, K]
//   layers.N.shared.gate_up, .hidden         the shared experts'
//   layers.N.experts.token       I32 [T K]: of each row of what follows, sorted by expert
//   layers.N.experts.gate_up, .hidden        [T K, ...]; hidden: times the gate weight
//   output                       the residual stream after the last layer
//   hidden                       normed, what the head reads
//   logits                       FP32 [T, V]
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "checkpoint/safetensors.h"
#include "study/text_forward.h"

namespace minke::study {

// All of them but the logits, in the order of their computation. Views of `forward`.
std::vector<std::pair<std::string, Tensor>> activations_of(TextForward& forward);

// Writes those whose name one of `patterns` fits (*, ? and [] as in a shell; * goes over dots) as
// safetensors, and says which. Error: a pattern that fits none.
std::vector<checkpoint::TensorSpec> write_activations(const fs::path& path, TextForward& forward,
                                                      const std::vector<std::string>& patterns);

}  // namespace minke::study
