#include "train/options.h"

#include <cmath>
#include <numbers>

#include "base/error.h"

namespace minke::train {
namespace {

void check_range(const char* flag, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    fail("--{} {}: expected a number from {} to {}", flag, value, low, high);
  }
}

}  // namespace

void check(const Options& o) {
  if (o.data.empty()) fail("--data is missing: which text shall the model learn from?");
  if (o.steps <= 0 && o.minutes <= 0) fail("give --steps N or --minutes M: how long to train");
  if (o.steps > 0 && o.minutes > 0) fail("--steps and --minutes exclude each other; give one");
  if (o.precision != "bf16" && o.precision != "fp32") {
    fail("--precision {}: expected bf16 or fp32", o.precision);
  }
  recompute_of(o);
  check_range("valid-fraction", o.valid_fraction, 0, 0.5);
  check_range("steps", static_cast<double>(o.steps), 0, 1e9);
  check_range("minutes", o.minutes, 0, 1e6);
  check_range("batch", static_cast<double>(o.batch), 1, 1 << 20);
  check_range("micro-batch", static_cast<double>(o.micro_batch), 0, static_cast<double>(o.batch));
  check_range("seq", static_cast<double>(o.seq), 2, 1 << 20);
  check_range("lr", o.lr, 0, 10);
  check_range("min-lr", o.min_lr, 0, o.lr);
  check_range("warmup", static_cast<double>(o.warmup), 0, 1e9);
  check_range("constant", o.constant, 0, 1);
  check_range("beta1", o.beta1, 0, 0.99999);
  check_range("beta2", o.beta2, 0, 0.9999999);
  check_range("eps", o.eps, 1e-30, 1);
  check_range("weight-decay", o.weight_decay, 0, 10);
  check_range("clip", o.clip, 0, 1e9);
  check_range("mtp-lambda", o.mtp_lambda, 0, 10);
  check_range("alpha", o.alpha, 0, 10);
  check_range("gamma", o.gamma, 0, 1);
  check_range("eval-every", static_cast<double>(o.eval_every), 0, 1e9);
  check_range("sample-every", static_cast<double>(o.sample_every), 0, 1e9);
  check_range("save-every", static_cast<double>(o.save_every), 0, 1e9);
  check_range("stop-at", static_cast<double>(o.stop_at), 0, 1e9);
}

model::Recompute recompute_of(const Options& o) {
  if (o.recompute == "none") return model::Recompute::kNone;
  if (o.recompute == "paper") return model::Recompute::kPaper;
  if (o.recompute == "block") return model::Recompute::kBlock;
  fail("--recompute {}: expected none, paper or block", o.recompute);
}

double learning_rate(const Options& o, int64_t step) {
  if (step <= o.warmup) {
    return o.lr * static_cast<double>(step) / static_cast<double>(o.warmup);
  }
  const auto after = static_cast<double>(o.steps - o.warmup);
  const double begin = o.constant * after;
  const double at = static_cast<double>(step - o.warmup);
  if (at <= begin || after <= begin) return o.lr;
  const double turn = (at - begin) / (after - begin);
  return o.min_lr + (o.lr - o.min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * turn));
}

}  // namespace minke::train
