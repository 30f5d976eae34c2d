// A training run from text to a model that talks: tokenizer, data, steps, evaluations, samples,
// checkpoints.
//
// OUT/  manifest.json     what the run is: flags, versions, hashes
//       tokenizer/        where it was trained here
//       tokens/           the tokenised text
//       metrics.jsonl     see train/metrics.h
//       tensorboard/      the same for TensorBoard, where asked for
//       checkpoint/       the last one; a Hugging Face folder, see train/state.h
//       checkpoints/      step-N/: earlier ones, where they are kept; best/ likewise
#pragma once

#include <set>
#include <string>

#include "base/file.h"
#include "train/options.h"

namespace minke::train {

struct RunResult {
  int64_t steps = 0;
  bool finished = false;  // all steps are done
};

// Begins a run in `out`, which must not hold one. Error: out is locked, cannot be written, or
// memory or disk will not do.
RunResult start_run(Options options, const fs::path& out);
// Goes on from the last checkpoint in `out`. `options` gives those settings of Scope::kFree that
// `given` names, and where to stop; all others are the run's own.
RunResult resume_run(const Options& options, const std::set<std::string>& given,
                     const fs::path& out);

}  // namespace minke::train
