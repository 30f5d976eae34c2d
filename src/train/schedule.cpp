#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace minke::train {
namespace {

bool grows(const Options& o) {
  return o.batch_start > 0 && o.batch_start < o.batch && o.batch_ramp > 0;
}

// Steps for each sequence that a run reads. While the batch grows each batch below the last has an
// equal part of the sequences.
double steps_per_row(const Options& o) {
  const double last = 1 / static_cast<double>(o.batch);
  if (!grows(o)) return last;
  double sum = 0;
  for (int64_t batch = o.batch_start; batch < o.batch; ++batch) {
    sum += 1 / static_cast<double>(batch);
  }
  return o.batch_ramp * sum / static_cast<double>(o.batch - o.batch_start) +
         (1 - o.batch_ramp) * last;
}

}  // namespace

Schedule::Schedule(const Options& options) : options_(options) {
  MINKE_CHECK(options.steps > 0);
  constexpr int64_t kWarmup = 50;
  if (options_.warmup < 0) options_.warmup = std::min(kWarmup, longest_warmup(options));
  const Options& o = options_;
  int64_t steps = 0, rows = 0;
  if (grows(o)) {
    const double ramp = o.batch_ramp * static_cast<double>(o.steps) / steps_per_row(o);
    const auto sizes = static_cast<double>(o.batch - o.batch_start);
    for (int64_t batch = o.batch_start; batch < o.batch; ++batch) {
      const double end = ramp * static_cast<double>(batch - o.batch_start + 1) / sizes;
      const double left = (end - static_cast<double>(rows)) / static_cast<double>(batch);
      const auto count = std::min<int64_t>(std::llround(std::max(left, 0.0)), o.steps - steps);
      if (count == 0) continue;
      stages_.push_back({batch, steps, rows});
      steps += count;
      rows += count * batch;
    }
  }
  stages_.push_back({o.batch, steps, rows});
  rows_ = this->rows(o.steps);
}

const Schedule::Stage& Schedule::stage_after(int64_t steps) const {
  return *std::prev(std::ranges::upper_bound(stages_, steps, {}, &Stage::steps_before));
}

int64_t Schedule::batch(int64_t step) const { return stage_after(step - 1).batch; }

int64_t Schedule::rows(int64_t steps) const {
  const Stage& stage = stage_after(steps);
  return stage.rows_before + (steps - stage.steps_before) * stage.batch;
}

double Schedule::share(int64_t step) const {
  return static_cast<double>(rows(step)) / static_cast<double>(rows_);
}

double Schedule::learning_rate(int64_t step) const {
  const Options& o = options_;
  if (step <= o.warmup) {
    return o.lr * static_cast<double>(step) / static_cast<double>(o.warmup);
  }
  const int64_t warm = rows(o.warmup);
  const double at = static_cast<double>(rows(step) - warm) / static_cast<double>(rows_ - warm);
  const double last = 1 - o.final_part, turned = last - o.hold;
  if (at > last) return o.final_lr;
  if (at <= o.constant) return o.lr;
  if (at >= turned) return o.min_lr;
  const double turn = (at - o.constant) / (turned - o.constant);
  return o.min_lr + (o.lr - o.min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * turn));
}

double Schedule::gamma(int64_t step) const {
  return share(step) <= options_.gamma_until ? options_.gamma : 0;
}

double Schedule::mtp_lambda(int64_t step) const {
  return share(step) <= options_.mtp_lambda_until ? options_.mtp_lambda : options_.mtp_lambda_later;
}

int64_t longest_warmup(const Options& options) { return options.steps / 5; }

int64_t steps_for(const Options& options, double rows) {
  return std::llround(rows * steps_per_row(options));
}

}  // namespace minke::train
