// Bytes that a training step takes, by kind, computed from the config before anything is allocated.
#pragma once

#include "model/transformer.h"

namespace minke::model {

struct StepMemory {
  size_t weights = 0;      // FP32 masters
  size_t gradients = 0;    // FP32
  size_t moments = 0;      // AdamW's two, FP32
  size_t averages = 0;     // of the weights, FP32, where they are kept: the trainer says
  size_t operands = 0;     // weights packed for fprop and dgrad
  size_t activations = 0;  // what a forward keeps for its backward
  size_t workspace = 0;    // the most that is taken for a moment
  size_t total() const {
    return weights + gradients + moments + averages + operands + activations + workspace;
  }
  // For a pass's two arenas: address space, not memory, since pages count once they are touched.
  // What ops take for a moment varies with the routes.
  size_t saved_space() const { return 2 * activations + kSpare; }
  size_t scratch_space() const { return 8 * workspace + kSpare; }

 private:
  static constexpr size_t kSpare = size_t{1} << 30;
};

// A step of `sequences` rows of `positions` tokens at once (a micro-batch), all MTP depths at full
// length.
StepMemory step_memory(const ModelConfig& config, Precision precision, int64_t sequences,
                       int64_t positions, Recompute recompute = Recompute::kNone,
                       const ops::Fp8Recipe& recipe = {});

}  // namespace minke::model
