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

Trainer::Rows Trainer::read_rows(int64_t count) const {
  const Profiled profiled("data");
  Rows rows;
  rows.row_tokens = options_.seq + 1 + model_.config().num_nextn_predict_layers;
  rows.tokens.resize(static_cast<size_t>(count * rows.row_tokens));
  rows.documents.resize(rows.tokens.size());
  if (learned_) rows.learned.resize(rows.tokens.size());
  const int64_t before = schedule_.rows(done_) + rows_passed_over_;
  for (int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i * rows.row_tokens);
    const auto n = static_cast<size_t>(rows.row_tokens);
    rows_(before + i, std::span(rows.tokens).subspan(at, n),
          std::span(rows.documents).subspan(at, n));
    if (learned_) learned_(before + i, std::span(rows.learned).subspan(at, n));
  }
  return rows;
}

model::Batch Trainer::part(const Rows& rows, int64_t first, int64_t count) const {
  const auto of = [&](const auto& all) {
    return std::span(all).subspan(static_cast<size_t>(first * rows.row_tokens),
                                  static_cast<size_t>(count * rows.row_tokens));
  };
  return {count,
          options_.seq,
          rows.row_tokens,
          of(rows.tokens),
          of(rows.documents),
          options_.mask_documents,
          learned_ ? of(rows.learned) : std::span<const uint8_t>()};
}

std::vector<model::Batch> Trainer::micro_batches(const Rows& rows, int64_t batch) const {
  std::vector<model::Batch> out;
  for (int64_t first = 0; first < batch; first += micro_batch(options_)) {
    out.push_back(part(rows, first, std::min(micro_batch(options_), batch - first)));
  }
  return out;
}

// Every loss is a mean over the valid positions of the whole batch, however it is cut.
std::vector<float> Trainer::loss_scales(const model::Batch& batch, int64_t step) const {
  const int64_t depths = model_.config().num_nextn_predict_layers;
  std::vector<float> scales;
  for (int64_t k = 0; k <= depths; ++k) {
    const auto valid = static_cast<double>(model::count_valid(batch.targets(k)));
    const double weight = k == 0 ? 1 : schedule_.mtp_lambda(step) / static_cast<double>(depths);
    scales.push_back(valid > 0 ? static_cast<float>(weight / valid) : 0.0F);
  }
  return scales;
}

bool Trainer::compute_gradients(const Rows& rows, StepReport& report) {
  const auto batch = static_cast<double>(report.batch);
  const auto scales = loss_scales(part(rows, 0, report.batch), report.step);
  model_.clear_gradients();
  clear_router_counts(model_);
  std::vector<model::Transformer::DepthLoss> sums(scales.size());
  bool finite = true;
  try {
    for (const model::Batch& micro : micro_batches(rows, report.batch)) {
      model::Transformer::Options how;
      how.counting = true;
      const model::Transformer::Losses losses = model_.forward_backward(
          micro, scales, static_cast<float>(options_.alpha / batch), how, pass());
      for (size_t k = 0; k < sums.size(); ++k) {
        sums[k].sum += losses.depth[k].sum;
        sums[k].valid += losses.depth[k].valid;
      }
      report.balance += losses.balance / batch;
    }
  } catch (const ops::NotFinite&) {
    // A step like any whose loss is not finite, where it is for --on-spike to say what is done.
    if (options_.on_spike == OnSpike::kNone) throw;
    finite = false;
  }
  const auto mean = [&](size_t k) {
    return sums[k].valid > 0 ? sums[k].sum / static_cast<double>(sums[k].valid) : 0.0;
  };
  report.loss = finite ? mean(0) : std::numeric_limits<double>::quiet_NaN();
  for (size_t k = 1; k < sums.size(); ++k) report.mtp_loss.push_back(mean(k));
  return finite;
}

// Where nobody watches for spikes, what is not finite ends the run.
void Trainer::score(StepReport& report) {
  report.spike = guard_.score(report.loss, report.gradient_norm);
  if (options_.on_spike != OnSpike::kNone) return;
  if (!report.spike.finite) {
    fail(
        "step {}: the {} is not finite; the weights are as before it. Try a smaller --lr, more "
        "--warmup, or --on-spike skip",
        report.step, std::isfinite(report.loss) ? "gradient" : "loss");
  }
  report.spike.spike = false;
}

void Trainer::update(StepReport& report, Look look) {
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
}

StepReport Trainer::step(Look look) {
  StepReport report;
  report.step = done_ + 1;
  report.learning_rate = schedule_.learning_rate(report.step);
  report.batch = schedule_.batch(report.step);
  report.tokens = report.batch * options_.seq;
  const Rows rows = read_rows(report.batch);
  const bool finite = compute_gradients(rows, report);
  if (finite && options_.shadow_bf16 > 0 && report.step % options_.shadow_bf16 == 0) {
    report.shadow_loss = loss_in_bf16(model_, micro_batches(rows, report.batch), pass());
  }
  const Profiled profiled("update");
  report.gradient_norm = finite ? optimizer_.gradient_norm() : report.loss;
  score(report);
  const bool skipped = report.spike.spike && options_.on_spike == OnSpike::kSkip;
  if (!report.spike.spike) update(report, look);
  report.routers = router_loads(model_);
  if (report.spike.spike && !skipped) return report;
  if (options_.on_spike != OnSpike::kNone) guard_.add(report.loss, report.gradient_norm);
  ++done_;
  return report;
}

}  // namespace minke::train
