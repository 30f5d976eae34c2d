// AdamW over all weights of a model, with FP32 masters and moments; decay on everything but norms.
#pragma once

#include "model/transformer.h"
#include "train/module_norms.h"
#include "train/options.h"

namespace minke::train {

class Optimizer {
 public:
  explicit Optimizer(model::Transformer& model);

  // Norm of the whole gradient: squares summed in double, tensor by tensor in the model's order.
  double gradient_norm();
  // Step `step` (from 1). gradient_scale multiplies the gradients: clipping. `norms`, where given:
  // of gradients (unscaled), changes and weights by module; gradient_norm() must have been called.
  // Takes a copy of the largest matrix, and the same bytes come out.
  void step(const Options& options, int64_t step, float gradient_scale,
            std::vector<ModuleNorms>* norms = nullptr);

  // Moments of the i-th weight in the model's order, shaped as its master.
  struct Moments {
    OwnedTensor m, v;
  };
  std::vector<Moments>& moments() { return moments_; }

 private:
  model::Transformer& model_;
  std::vector<Moments> moments_;
  std::vector<double> gradient_squares_;  // by weight, of the last gradient_norm()
};

}  // namespace minke::train
