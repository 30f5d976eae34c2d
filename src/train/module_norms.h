// Norms of gradients, of a step's changes and of weights, by part of the model: where it learns,
// and whether a part moves too fast or not at all.
#pragma once

#include <string>
#include <vector>

#include "model/weight.h"

namespace minke::train {

struct ModuleNorms {
  static constexpr int64_t kNoLayer = -1;

  // embedding, head, norms, attention (with its two latent norms), ffn (of a dense layer), router,
  // experts, shared, projection (MTP's eh_proj).
  std::string module;
  int64_t layer = kNoLayer;  // embedding, head and the last norm are of none
  // Euclidean norms over all numbers of the module: of the gradient before clipping, of what the
  // step changed (weight decay included), of the weights after it.
  double gradient = 0, update = 0, weight = 0;
};

// The entry of `norms` that the weight belongs to, which is added where there is none yet.
ModuleNorms& module_of(const model::Weight& weight, std::vector<ModuleNorms>& norms);

// Sum of squares of a - b (FP32, of one shape) in double, over fixed blocks in order.
double squared_distance(const Tensor& a, const Tensor& b);

}  // namespace minke::train
