#include "train/optimizer.h"

#include <cmath>

#include "ops/adamw.h"
#include "ops/elementwise.h"

namespace minke::train {

Optimizer::Optimizer(model::Transformer& model) : model_(model) {
  model.for_each_weight([&](model::Weight& weight) {
    const Shape shape = weight.master().shape();
    moments_.push_back({OwnedTensor(DType::kF32, shape), OwnedTensor(DType::kF32, shape)});
  });
}

double Optimizer::gradient_norm() {
  double sum = 0;
  gradient_squares_.clear();
  model_.for_each_weight([&](model::Weight& weight) {
    gradient_squares_.push_back(ops::sum_of_squares(weight.gradient()));
    sum += gradient_squares_.back();
  });
  return std::sqrt(sum);
}

void Optimizer::step(const Options& options, int64_t step, float gradient_scale,
                     std::vector<ModuleNorms>* norms) {
  ops::AdamW how;
  how.lr = static_cast<float>(learning_rate(options, step));
  how.beta1 = static_cast<float>(options.beta1);
  how.beta2 = static_cast<float>(options.beta2);
  how.eps = static_cast<float>(options.eps);
  how.step = step;
  how.gradient_scale = gradient_scale;
  size_t i = 0;
  std::vector<ops::AdamWUpdate> updates;
  model_.for_each_weight([&](model::Weight& weight) {
    const bool decays = weight.kind() != model::Weight::Kind::kVector;
    const Moments& moments = moments_[i++];
    weight.add_updates(moments.m, moments.v,
                       decays ? static_cast<float>(options.weight_decay) : 0.0F, updates);
    if (norms == nullptr) return;
    ModuleNorms& sums = module_of(weight, *norms);
    sums.gradient += gradient_squares_[i - 1];
    for (const ops::AdamWUpdate& update : updates) {
      const OwnedTensor before(DType::kF32, update.weight.shape());
      ops::convert(before, update.weight);
      ops::adamw(std::span(&update, 1), how);
      sums.update += squared_distance(update.weight, before);
    }
    sums.weight += ops::sum_of_squares(weight.master());
    updates.clear();
  });
  ops::adamw(updates, how);
  if (norms == nullptr) return;
  for (ModuleNorms& n : *norms) {
    for (double* sum : {&n.gradient, &n.update, &n.weight}) *sum = std::sqrt(*sum);
  }
}

}  // namespace minke::train
