#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "ops/adamw.h"
#include "ops/elementwise.h"

namespace minke::train {

Optimizer::Optimizer(model::Transformer& model, const Options& options)
    : model_(model), options_(options) {
  model_.for_each_weight([&](model::Weight& weight) {
    const Shape shape = weight.master().shape();
    const DType kept = moments_of(options);
    moments_.push_back({OwnedTensor(kept, shape), OwnedTensor(kept, shape)});
    if (options_.ema > 0) averages_.weights.emplace_back(DType::kF32, shape);
  });
  model_.for_each_router([&](int64_t, model::Router& router) {
    if (options_.ema > 0 && router.has_bias()) {
      averages_.biases.emplace_back(DType::kF32, router.bias_E.shape());
    }
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

// The weights d^(n-k) of updates 1..n add up to (1 - d^n) / (1 - d), of which the last has 1.
double Optimizer::average_rate(int64_t update) const {
  return (1 - options_.ema) / (1 - std::pow(options_.ema, static_cast<double>(update)));
}

bool Optimizer::decays(const model::Weight& weight) const {
  const auto excepted = [&](std::string_view what) {
    return std::ranges::find(options_.no_decay, what) != options_.no_decay.end();
  };
  switch (weight.kind()) {
    case model::Weight::Kind::kVector:
      return false;
    case model::Weight::Kind::kEmbedding:
      return !excepted("embedding");
    case model::Weight::Kind::kGate:
      return !excepted("router");
    case model::Weight::Kind::kHead:
    case model::Weight::Kind::kLinear:
      break;
  }
  return weight.pieces()[0].name != "lm_head.weight" || !excepted("head");
}

void Optimizer::step(const OptimizerStep& how, std::vector<ModuleNorms>* norms) {
  ops::AdamW adamw;
  adamw.lr = static_cast<float>(how.learning_rate);
  adamw.beta1 = static_cast<float>(options_.beta1);
  adamw.beta2 = static_cast<float>(options_.beta2);
  adamw.eps = static_cast<float>(options_.eps);
  adamw.step = how.update;
  adamw.gradient_scale = static_cast<float>(how.gradient_scale);
  adamw.average_rate = static_cast<float>(average_rate(how.update));
  size_t i = 0;
  std::vector<ops::AdamWUpdate> updates;
  model_.for_each_weight([&](model::Weight& weight) {
    const Moments& moments = moments_[i];
    const size_t first = updates.size();
    weight.add_updates(moments.m, moments.v,
                       averages_.exist() ? Tensor(averages_.weights[i]) : Tensor(),
                       decays(weight) ? static_cast<float>(options_.weight_decay) : 0.0F, updates);
    if (options_.moments == MomentFormat::kBF16Random) {
      for (size_t k = first; k < updates.size(); ++k) {
        updates[k].rounding = stream_key(options_.seed, static_cast<uint64_t>(how.update),
                                         fmt::format("moments.{}.{}", i, k - first));
      }
    }
    ++i;
    if (norms == nullptr) return;
    ModuleNorms& sums = module_of(weight, *norms);
    sums.gradient += gradient_squares_[i - 1];
    for (const ops::AdamWUpdate& update : updates) {
      const OwnedTensor before(DType::kF32, update.weight.shape());
      ops::convert(before, update.weight);
      ops::adamw(std::span(&update, 1), adamw);
      sums.update += squared_distance(update.weight, before);
    }
    sums.weight += ops::sum_of_squares(weight.master());
    updates.clear();
  });
  ops::adamw(updates, adamw);
  if (norms == nullptr) return;
  for (ModuleNorms& n : *norms) {
    for (double* sum : {&n.gradient, &n.update, &n.weight}) *sum = std::sqrt(*sum);
  }
}

void Optimizer::average_biases(int64_t update) {
  if (!averages_.exist()) return;
  const auto rate = static_cast<float>(average_rate(update));
  auto average = averages_.biases.begin();
  model_.for_each_router([&](int64_t, model::Router& router) {
    if (!router.has_bias()) return;
    const auto into = (average++)->span<float>(), bias = router.bias_E.span<float>();
    for (size_t e = 0; e < into.size(); ++e) into[e] += rate * (bias[e] - into[e]);
  });
}

void Optimizer::swap_averages() {
  MINKE_CHECK(averages_.exist());
  const auto swap = [](const Tensor& a, const Tensor& b) {
    std::ranges::swap_ranges(a.span<float>(), b.span<float>());
  };
  auto weights = averages_.weights.begin(), biases = averages_.biases.begin();
  model_.for_each_weight([&](model::Weight& weight) { swap(weight.master(), *weights++); });
  model_.for_each_router([&](int64_t, model::Router& router) {
    if (router.has_bias()) swap(router.bias_E, *biases++);
  });
  model_.prepare(true);
}

}  // namespace minke::train
