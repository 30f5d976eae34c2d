#include "train/shadow.h"

#include <algorithm>

#include "base/profile.h"

namespace minke::train {
namespace {

void share_weights(model::Transformer& into, model::Transformer& from) {
  std::vector<model::Weight*> weights;
  from.for_each_weight([&](model::Weight& weight) { weights.push_back(&weight); });
  auto source = weights.begin();
  into.for_each_weight([&](model::Weight& weight) {
    model::Weight& of = **source++;
    if (weight.kind() == model::Weight::Kind::kVector) {
      weight.own();
      std::ranges::copy(of.master().span<float>(), weight.master().span<float>().begin());
      return;
    }
    for (size_t i = 0; i < weight.pieces().size(); ++i) {
      weight.pieces()[i].value = of.pieces()[i].value;
    }
  });
  std::vector<const model::Router*> routers;
  from.for_each_router([&](int64_t, model::Router& router) { routers.push_back(&router); });
  auto router_of = routers.begin();
  into.for_each_router([&](int64_t, model::Router& router) {
    const model::Router& of = **router_of++;
    std::ranges::copy(of.bias_E.span<float>(), router.bias_E.span<float>().begin());
  });
}

}  // namespace

double loss_in_bf16(model::Transformer& model, std::span<const model::Batch> batches,
                    const model::Pass& pass) {
  const Profiled profiled("shadow");
  model::Transformer shadow(model.config(), model::Precision::kBF16);
  share_weights(shadow, model);
  shadow.prepare(false);
  model::Transformer::Options how;
  how.depths = 0;
  double sum = 0;
  int64_t valid = 0;
  for (const model::Batch& batch : batches) {
    const auto losses = shadow.evaluate(batch, how, {}, {}, shadow.pass(pass.saved, pass.scratch));
    sum += losses.depth[0].sum;
    valid += losses.depth[0].valid;
  }
  return valid > 0 ? sum / static_cast<double>(valid) : 0;
}

size_t bf16_operand_bytes(const model::ModelConfig& config) {
  return model::Transformer(config, model::Precision::kBF16).packed_size(false);
}

}  // namespace minke::train
