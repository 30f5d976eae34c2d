// The checkpoints in a run's folder: checkpoint/, the last one, which is written while training
// goes on where memory has room for a copy; checkpoints/step-N/, earlier ones, and best/, as
// --keep-last,
// --keep-every and --keep-best ask for them.
#pragma once

#include <functional>
#include <future>

#include "train/options.h"
#include "train/state.h"

namespace minke::train {

class Checkpoints {
 public:
  struct Written {
    int64_t step = 0;
    double took = 0, blocked = 0;  // seconds of writing, and those that training waited for it
  };
  Checkpoints(const Options& options, fs::path run, std::function<void(const Written&)> on_written);

  // The last one was there before and is of this step.
  void found(int64_t step) { step_ = step; }
  // Of the last one, or of that to be; -1: there is none.
  int64_t step() const { return step_; }
  // What is held for one that is being written.
  uint64_t copy_bytes() const { return writing_.valid() ? copy_bytes_ : 0; }

  enum class When { kMeanwhile, kNow };
  // Saves what `take` finds after `step`, where that is not saved yet; `best`: and keeps it as
  // that. Error: it, or the one before it, cannot be written.
  void save(int64_t step, When when, const std::function<Snapshot()>& take, bool best = false);
  // Of one that is being written: reports it if it is done, or waits until it is. Error: it could
  // not be written.
  void look();
  void finish();

 private:
  void keep_earlier(int64_t step) const;
  void keep_best() const;

  fs::path run_;
  int64_t keep_last_, keep_every_;
  std::function<void(const Written&)> on_written_;
  int64_t step_ = -1;
  double blocked_ = 0;
  uint64_t copy_bytes_ = 0;
  bool said_no_memory_ = false;
  std::future<double> writing_;  // the last member: its thread uses the others
};

}  // namespace minke::train
