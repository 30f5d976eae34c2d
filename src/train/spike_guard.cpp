#include "train/spike_guard.h"

#include <algorithm>
#include <cmath>

namespace minke::train {
namespace {

struct Level {
  double mean = 0, deviation = 0;
};

// Steps that are all alike say nothing about how they vary: the deviation is a thousandth at least.
Level level_of(const std::vector<double>& x) {
  Level out;
  for (const double v : x) out.mean += v / static_cast<double>(x.size());
  double squares = 0;
  for (const double v : x) squares += (v - out.mean) * (v - out.mean);
  out.deviation = std::max(std::sqrt(squares / static_cast<double>(x.size() - 1)), 1e-3);
  return out;
}

double logarithm(double norm) { return std::log(std::max(norm, 1e-30)); }

}  // namespace

SpikeScore SpikeGuard::score(double loss, double gradient_norm) const {
  SpikeScore out;
  out.finite = std::isfinite(loss) && std::isfinite(gradient_norm);
  out.spike = !out.finite;
  if (out.spike || steps_.loss.size() < kFewest) return out;
  const Level losses = level_of(steps_.loss), gradients = level_of(steps_.gradient);
  out.loss_z = (loss - losses.mean) / losses.deviation;
  out.gradient_z = (logarithm(gradient_norm) - gradients.mean) / gradients.deviation;
  out.spike = out.loss_z > limit_ || out.gradient_z > limit_;
  return out;
}

void SpikeGuard::add(double loss, double gradient_norm) {
  if (!std::isfinite(loss) || !std::isfinite(gradient_norm)) return;
  const auto put = [&](std::vector<double>& into, double x) {
    if (into.size() >= kFewest) {
      const Level level = level_of(into);
      x = std::min(x, level.mean + limit_ * level.deviation);
    }
    if (into.size() == kSteps) into.erase(into.begin());
    into.push_back(x);
  };
  put(steps_.loss, loss);
  put(steps_.gradient, logarithm(gradient_norm));
}

}  // namespace minke::train
