// Whether a step's loss or gradient jumps out of those before it.
//
// A step is measured in standard deviations from the mean of the steps before it: its loss, and the
// logarithm of its gradient's norm. Only upwards counts, and nothing before there are enough steps.
#pragma once

#include <cstdint>
#include <vector>

namespace minke::train {

struct SpikeScore {
  double loss_z = 0, gradient_z = 0;  // 0 while there are too few steps
  bool finite = true;                 // loss and gradient
  bool spike = false;
};

class SpikeGuard {
 public:
  static constexpr size_t kSteps = 128;  // that a step is compared with, at most
  static constexpr size_t kFewest = 16;  // and at least

  explicit SpikeGuard(double limit) : limit_(limit) {}

  SpikeScore score(double loss, double gradient_norm) const;
  // After a step, taken or not: a spike counts as what would just not have been one, so that a
  // level that stays is met in the end.
  void add(double loss, double gradient_norm);

  // All it remembers, oldest first.
  struct Steps {
    std::vector<double> loss, gradient;  // gradient: logarithm of the norm
  };
  const Steps& steps() const { return steps_; }
  void restore(Steps steps) { steps_ = std::move(steps); }

 private:
  double limit_;
  Steps steps_;
};

}  // namespace minke::train
