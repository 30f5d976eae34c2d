#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/profile.h"
#include "ops/not_finite.h"
#include "train/shadow.h"

namespace minke::train {
namespace {

model::StepMemory memory_of(const model::Transformer& model, const Options& options) {
  return model::step_memory(model.config(), model.precision(), micro_batch(options), options.seq,
                            options.recompute, fp8_recipe_of(options));
}

}  // namespace

int64_t micro_batch(const Options& options) {
  return options.micro_batch > 0 ? options.micro_batch : options.batch;
}

model::StepMemory step_memory(const model::ModelConfig& config, const Options& options) {
  auto out = model::step_memory(config, options.precision, micro_batch(options), options.seq,
                                options.recompute, fp8_recipe_of(options));
  if (options.ema > 0) out.averages = out.weights;
  if (options.shadow_bf16 > 0) out.operands += bf16_operand_bytes(config);
  out.moments = 2 * out.weights / sizeof(float) * size_of(moments_of(options));
  return out;
}

double RouterLoad::max_vio() const {
  const auto sum = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  if (sum == 0) return 0;
  const auto most = static_cast<double>(*std::ranges::max_element(counts));
  return most * static_cast<double>(counts.size()) / sum - 1;
}

int64_t RouterLoad::dead() const { return std::ranges::count(counts, 0); }

double worst_max_vio(const std::vector<RouterLoad>& routers) {
  double worst = 0;
  for (const RouterLoad& router : routers) worst = std::max(worst, router.max_vio());
  return worst;
}

int64_t dead_experts(const std::vector<RouterLoad>& routers) {
  int64_t dead = 0;
  for (const RouterLoad& router : routers) dead += router.dead();
  return dead;
}

std::vector<RouterLoad> router_loads(model::Transformer& model) {
  std::vector<RouterLoad> out;
  model.for_each_router([&](int64_t layer, model::Router& router) {
    const auto counts = router.counts_E.span<int64_t>();
    RouterLoad load{layer, {counts.begin(), counts.end()}, {}};
    if (router.has_bias()) {
      const auto bias = router.bias_E.span<float>();
      load.bias.assign(bias.begin(), bias.end());
    }
    out.push_back(std::move(load));
  });
  return out;
}

void clear_router_counts(model::Transformer& model) {
  model.for_each_router([](int64_t, model::Router& router) {
    std::ranges::fill(router.counts_E.span<int64_t>(), 0);
  });
}

Trainer::Trainer(model::Transformer& model, const Options& options, RowSource rows,
                 LearnedSource learned)
    : model_(model),
      options_(options),
      schedule_(options),
      rows_(std::move(rows)),
      learned_(std::move(learned)),
      optimizer_(model, options),
      saved_(memory_of(model, options).saved_space()),
      scratch_(memory_of(model, options).scratch_space()),
      guard_(options.spike_z) {
  model_.attach_gradients();
  model_.prepare(true);
}

void Trainer::resume_at(Position position) {
  done_ = position.done;
  updates_ = position.updates;
  rows_passed_over_ = position.rows_passed_over;
  guard_.restore(std::move(position.steps));
}

StepReport Trainer::step(Look look) {
  const int64_t depths = model_.config().num_nextn_predict_layers;
  StepReport report;
  report.step = done_ + 1;
  report.learning_rate = schedule_.learning_rate(report.step);
  report.batch = schedule_.batch(report.step);
  report.tokens = report.batch * options_.seq;
  const int64_t row_tokens = options_.seq + 1 + depths, batch = report.batch;
  const int64_t rows_before = schedule_.rows(done_) + rows_passed_over_;

  std::vector<int32_t> tokens(static_cast<size_t>(batch * row_tokens)), documents(tokens.size());
  std::vector<uint8_t> learned(learned_ ? tokens.size() : 0);
  {
    const Profiled profiled("data");
    for (int64_t i = 0; i < batch; ++i) {
      const auto at = static_cast<size_t>(i * row_tokens), n = static_cast<size_t>(row_tokens);
      rows_(rows_before + i, std::span(tokens).subspan(at, n), std::span(documents).subspan(at, n));
      if (learned_) learned_(rows_before + i, std::span(learned).subspan(at, n));
    }
  }
  const auto part = [&](int64_t first, int64_t count) {
    const auto at = static_cast<size_t>(first * row_tokens);
    const auto n = static_cast<size_t>(count * row_tokens);
    return model::Batch{
        count,
        options_.seq,
        row_tokens,
        std::span(tokens).subspan(at, n),
        std::span(documents).subspan(at, n),
        options_.mask_documents,
        learned_ ? std::span(std::as_const(learned)).subspan(at, n) : std::span<const uint8_t>()};
  };
  // Every loss is a mean over the valid positions of the whole batch, however it is cut.
  std::vector<float> scale;
  for (int64_t k = 0; k <= depths; ++k) {
    const auto valid = static_cast<double>(model::count_valid(part(0, batch).targets(k)));
    const double weight =
        k == 0 ? 1 : schedule_.mtp_lambda(report.step) / static_cast<double>(depths);
    scale.push_back(valid > 0 ? static_cast<float>(weight / valid) : 0.0F);
  }
  const auto balance_scale = static_cast<float>(options_.alpha / static_cast<double>(batch));

  model_.clear_gradients();
  clear_router_counts(model_);
  std::vector<model::Transformer::DepthLoss> sums(static_cast<size_t>(depths) + 1);
  bool finite = true;
  for (int64_t first = 0; first < batch; first += micro_batch(options_)) {
    const int64_t count = std::min(micro_batch(options_), batch - first);
    model::Transformer::Options how;
    how.counting = true;
    model::Transformer::Losses losses;
    try {
      losses = model_.forward_backward(part(first, count), scale, balance_scale, how, pass());
    } catch (const ops::NotFinite&) {
      // A step like any whose loss is not finite, where it is for --on-spike to say what is done.
      if (options_.on_spike == OnSpike::kNone) throw;
      finite = false;
      break;
    }
    for (size_t k = 0; k < sums.size(); ++k) {
      sums[k].sum += losses.depth[k].sum;
      sums[k].valid += losses.depth[k].valid;
    }
    report.balance += losses.balance / static_cast<double>(batch);
  }
  const auto mean = [&](size_t k) {
    return sums[k].valid > 0 ? sums[k].sum / static_cast<double>(sums[k].valid) : 0.0;
  };
  report.loss = finite ? mean(0) : std::numeric_limits<double>::quiet_NaN();
  for (size_t k = 1; k < sums.size(); ++k) report.mtp_loss.push_back(mean(k));
  if (finite && options_.shadow_bf16 > 0 && report.step % options_.shadow_bf16 == 0) {
    std::vector<model::Batch> batches;
    for (int64_t first = 0; first < batch; first += micro_batch(options_)) {
      batches.push_back(part(first, std::min(micro_batch(options_), batch - first)));
    }
    report.shadow_loss = loss_in_bf16(model_, batches, pass());
  }
  const Profiled profiled("update");
  report.gradient_norm = finite ? optimizer_.gradient_norm() : report.loss;
  report.spike = guard_.score(report.loss, report.gradient_norm);
  if (options_.on_spike == OnSpike::kNone) {
    if (!report.spike.finite) {
      fail(
          "step {}: the {} is not finite; the weights are as before it. Try a smaller --lr, more "
          "--warmup, or --on-spike skip",
          report.step, std::isfinite(report.loss) ? "gradient" : "loss");
    }
    report.spike.spike = false;
  }
  if (report.spike.spike) {
    report.routers = router_loads(model_);
    if (options_.on_spike != OnSpike::kSkip) return report;
    guard_.add(report.loss, report.gradient_norm);
    ++done_;
    return report;
  }
  if (options_.on_spike != OnSpike::kNone) guard_.add(report.loss, report.gradient_norm);

  report.clipped = options_.clip > 0 && report.gradient_norm > options_.clip;
  const double factor = report.clipped ? options_.clip / report.gradient_norm : 1.0;
  ++updates_;
  optimizer_.step({updates_, report.learning_rate, factor},
                  look == Look::kModules ? &report.modules : nullptr);
  model_.for_each_router([&](int64_t, model::Router& router) {
    if (!router.has_bias()) return;
    ops::update_bias(router.bias_E, router.counts_E,
                     static_cast<float>(schedule_.gamma(report.step)));
  });
  optimizer_.average_biases(updates_);
  report.routers = router_loads(model_);
  ++done_;
  return report;
}

}  // namespace minke::train
