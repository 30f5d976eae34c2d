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
  model_.for_each_weight(
      [&](model::Weight& weight) { sum += ops::sum_of_squares(weight.gradient()); });
  return std::sqrt(sum);
}

void Optimizer::step(const Options& options, int64_t step, float gradient_scale) {
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
  });
  ops::adamw(updates, how);
}

}  // namespace minke::train
