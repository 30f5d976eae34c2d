// A run: a text, a model, a trainer, and the folder that both are kept in. How it begins or goes on
// is in run.cpp, what happens from a step to the next in run_course.cpp.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/profile.h"
#include "base/progress.h"
#include "checkpoint/model_files.h"
#include "infer/loaded_model.h"
#include "model/memory.h"
#include "train/checkpoints.h"
#include "train/data_stream.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/run.h"
#include "train/run_files.h"
#include "train/state.h"

namespace minke::train {

class Run {
 public:
  Run(RunText text, checkpoint::HfConfig config, Options options, fs::path out);

  // Prints what the run takes and refuses what cannot fit.
  void check_resources() const;
  void begin();
  void resume();
  RunResult train();

 private:
  void initialize();
  void load_weights(const fs::path& folder, infer::WeightsOf weights = infer::WeightsOf::kModel);
  void make_trainer(const Options& options);
  void fix_steps();
  void show(const StepReport& report, double rate, LiveLine& line) const;
  Evaluation evaluate_weights(bool whole, LiveLine& line);
  void evaluate_now(bool whole, LiveLine& line);
  void sample_now(LiveLine& line);
  void save(Checkpoints::When when, bool best = false);
  bool conclude(LiveLine& line);
  bool meet_spike(const StepReport& report, LiveLine& line);
  void roll_back(const StepReport& report);
  void open_log();
  void continue_log();
  bool due(int64_t every, int64_t parts, int64_t step) const;
  double flops_per_token() const;
  model::StepMemory memory() const;
  void write_start();
  void write_step(const StepReport& report, const std::vector<ProfileEntry>& profile,
                  double tokens_per_second);
  double seconds() const { return seconds_before_ + seconds_since(started_); }

  RunText text_;
  checkpoint::HfConfig config_;
  Options options_;
  fs::path out_;
  model::Transformer model_;
  TokenStream stream_;
  RunIdentity identity_;
  Carried carried_;
  std::unique_ptr<checkpoint::CheckpointFolder> files_;  // in which its tensors lie
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<MetricsLog> metrics_;
  std::vector<RouterLoad> loads_;                          // since the last routers event
  double peak_ = 0;                                        // FLOP/s of the processor
  double seconds_before_ = 0;                              // of the run before it was resumed
  double bits_per_byte_ = 0;                               // the last evaluation's
  int64_t clipped_ = 0;                                    // steps
  double best_ = std::numeric_limits<double>::infinity();  // of the evaluations during training
  int64_t skipped_ = 0;                                    // steps in a row that were spikes
  std::map<int64_t, int64_t> rollbacks_;                   // to a step: how often
  std::string fault_;                                      // why training ended early
  bool concluded_ = false;  // the whole held-out text was evaluated, after the last step
  Clock::time_point started_ = Clock::now();
  Checkpoints checkpoints_;  // the last: it may be writing what the others hold
};

}  // namespace minke::train
