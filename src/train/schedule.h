// What changes over a run: the batch, the learning rate, gamma and lambda (V3 report, section 4.2).
//
// Everything is said in shares of the run's tokens, so a recipe means the same for a run of any
// length, and a batch that grows moves nothing else. A step stands where it ends.
#pragma once

#include <vector>

#include "train/options.h"

namespace minke::train {

class Schedule {
 public:
  // options.steps must be known.
  explicit Schedule(const Options& options);

  // Sequences of step 1, 2, ...
  int64_t batch(int64_t step) const;
  // Sequences of the first `steps` steps, and of the whole run.
  int64_t rows(int64_t steps) const;
  int64_t rows() const { return rows_; }

  // Linear warm-up over --warmup steps; then, in shares of the tokens that are left, constant,
  // cosine, constant at --min-lr, constant at --final-lr.
  double learning_rate(int64_t step) const;
  double gamma(int64_t step) const;
  double mtp_lambda(int64_t step) const;

 private:
  // Steps of one batch, as it grows.
  struct Stage {
    int64_t batch = 0, steps_before = 0, rows_before = 0;
  };
  const Stage& stage_after(int64_t steps) const;
  double share(int64_t step) const;  // of the run's tokens, at the step's end

  Options options_;
  std::vector<Stage> stages_;
  int64_t rows_ = 0;
};

// Of a run whose steps are known, where nobody who knew them said how long it warms up.
int64_t longest_warmup(const Options& options);

// Steps that read about `rows` sequences, with the batch growing as the options say.
int64_t steps_for(const Options& options, double rows);

}  // namespace minke::train
