// Speed of whole training steps: tokens a second, and what share of the processor's multiply-adds
// they are.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/profile.h"
#include "model/config.h"
#include "train/options.h"

namespace minke::study {

struct TrainBench {
  int64_t tokens = 0;             // of a step
  double seconds = 0;             // of a step: the median
  double tokens_per_second = 0;   // the median
  double flops = 0;               // model FLOP/s (model/cost.h), the median
  double peak = 0;                // FLOP/s of multiply-adds in the run's precision, the median
  double mfu = 0;                 // flops / peak, step by step: the median
  std::vector<ProfileEntry> ops;  // of all timed steps
  double max_vio = 0;             // of the last step: how uneven the experts' loads were
};

// Trains `config` with random weights on random tokens: a few steps that do not count, then `steps`
// that do, each between two measurements of the peak. Of `options`: batch, micro_batch, seq,
// precision, recompute.
TrainBench bench_train(const model::ModelConfig& config, train::Options options, int64_t steps,
                       const std::function<void(int64_t)>& on_step = {});

}  // namespace minke::study
