// The whole DeepSeek-V2/V3 model in float64, composed from `ref`, with the gradients of everything:
// what `minke verify` holds the engine against. It shares no arithmetic with model/ or ops/.
//
// It can compute what an engine of lower precision would at worst: with options.rounding, every
// number that the engine stores in BF16 (operands, kept activations, and their gradients) gets a
// relative error of that size with a random sign. The points are those of docs/NUMERICS.md; the
// residual stream, its gradient, the router, softmax, losses and weight gradients are not rounded.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/config.h"
#include "study/reference_tape.h"

namespace minke::study {

// Numbers by name. Weights have Hugging Face's names, results the names of golden.safetensors.
using Values = std::map<std::string, std::vector<double>>;

struct ReferenceBatch {
  int64_t sequences = 0, positions = 0;    // depth k of MTP has positions - k
  std::vector<int32_t> tokens, documents;  // [B, S]; documents may be empty: one a sequence
  bool mask_documents = false;             // whether attention, too, stays within a document
  double lambda = 0.3, alpha = 0, gamma = 0;

  // Of depth k, [B, S - k]: token i + k + 1, or kIgnore where there is none in i's document.
  std::vector<int32_t> targets(int64_t depth) const;
};

// By layer: [T, K], ascending in a token.
using Experts = std::map<int64_t, std::vector<int32_t>>;

struct ReferenceOptions {
  Experts forced;    // layers not named choose
  Values fractions;  // "route.N.fractions": f of the balance loss [B, E], where it is given
  bool gradients = true;
  bool absorbed = false;  // attention as it is decoded: queries go into latent space; no gradients
  int64_t depths = -1;    // MTP depths to compute; -1: all
  Rounding rounding;
};

// numbers: hidden [B, S, D]; logits.K [B, S - K, V]; latent.N [B, S, R + rope]; loss.K, balance,
// total; grad.NAME; route.N.weights [T, K], .scores [T, E] (unbiased), .fractions [B, E] and, for
// noaux_tc, .bias_after [E].
struct ReferenceResult {
  Values numbers;
  Experts experts;
  std::map<int64_t, std::vector<int64_t>> counts;  // by layer: [E]
};

class ReferenceModel {
 public:
  // weights: every parameter and router bias. Error: one that is missing or of another size.
  ReferenceModel(const model::ModelConfig& config, Values weights);

  const model::ModelConfig& config() const { return config_; }
  const Values& weights() const { return weights_; }

  // Error: a token that is not in the vocabulary.
  ReferenceResult run(const ReferenceBatch& batch, const ReferenceOptions& options) const;
  // The `count` most likely tokens after `prompt`, one after the other.
  std::vector<int32_t> continue_greedily(std::vector<int32_t> prompt, int64_t count) const;

 private:
  model::ModelConfig config_;
  Values weights_;
};

ref::Routing reference_routing(const model::ModelConfig& config);
// Every parameter's name and shape, router biases included, in the order of the architecture.
std::vector<std::pair<std::string, std::vector<int64_t>>> parameter_shapes(
    const model::ModelConfig& config);
inline bool is_router_bias(std::string_view name) {
  return name.ends_with("e_score_correction_bias");
}

// Error where the reference of that model would not fit in memory: it holds float64 weights, and of
// each of `runs` at a time their copies and gradients.
void check_reference_fits(const model::ModelConfig& config, int64_t runs);

}  // namespace minke::study
