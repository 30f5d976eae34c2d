// AdamW over all weights of a model, with FP32 masters, moments in FP32 or BF16, and averages of
// the weights.
#pragma once

#include "model/transformer.h"
#include "train/module_norms.h"
#include "train/options.h"

namespace minke::train {

// A step's settings.
struct OptimizerStep {
  int64_t update = 1;  // from 1: a step that is skipped is none
  double learning_rate = 0;
  double gradient_scale = 1;  // multiplies the gradients: clipping
};

class Optimizer {
 public:
  Optimizer(model::Transformer& model, const Options& options);

  // Norm of the whole gradient: squares summed in double, tensor by tensor in the model's order.
  double gradient_norm();
  // Decay is for all weights but norms, biases and what --no-decay names. `norms`, where given: of
  // gradients (unscaled), changes and weights by module; gradient_norm() must have been called.
  // Takes a copy of the largest matrix, and the same bytes come out.
  void step(const OptimizerStep& how, std::vector<ModuleNorms>* norms = nullptr);
  // After the routers' biases were updated: they are averaged as the weights are.
  void average_biases(int64_t update);

  // Moments of the i-th weight in the model's order, shaped as its master.
  struct Moments {
    OwnedTensor m, v;
  };
  std::vector<Moments>& moments() { return moments_; }

  // Exponential moving averages, FP32; empty where there are none. After n updates at a decay d an
  // average is the mean of the weights after each, those of update k weighted by d^(n-k):
  // initial weights have no part in it.
  struct Averages {
    std::vector<OwnedTensor> weights;  // in the model's order, shaped as masters
    std::vector<OwnedTensor> biases;   // of the routers that have one
    bool exist() const { return !weights.empty(); }
  };
  Averages& averages() { return averages_; }
  // Weights and averages change places; again, and all is as before. The model's operands are
  // prepared anew each time.
  void swap_averages();

 private:
  double average_rate(int64_t update) const;
  bool decays(const model::Weight& weight) const;

  model::Transformer& model_;
  const Options options_;
  std::vector<Moments> moments_;
  std::vector<double> gradient_squares_;  // by weight, of the last gradient_norm()
  Averages averages_;
};

// The averages in place of the weights, for as long as this lives.
class AveragesInPlace {
 public:
  explicit AveragesInPlace(Optimizer& optimizer) : optimizer_(optimizer) {
    optimizer_.swap_averages();
  }
  ~AveragesInPlace() { optimizer_.swap_averages(); }
  AveragesInPlace(const AveragesInPlace&) = delete;
  AveragesInPlace& operator=(const AveragesInPlace&) = delete;

 private:
  Optimizer& optimizer_;
};

}  // namespace minke::train
