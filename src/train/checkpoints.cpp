#include "train/checkpoints.h"

#include <map>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"

namespace minke::train {

using namespace std::chrono_literals;

Checkpoints::Checkpoints(const Options& options, fs::path run,
                         std::function<void(const Written&)> on_written)
    : run_(std::move(run)),
      keep_last_(options.keep_last),
      keep_every_(options.keep_every),
      on_written_(std::move(on_written)) {}

void Checkpoints::save(int64_t step, When when, const std::function<Snapshot()>& take, bool best) {
  if (step_ == step) {
    if (!best) return;
    finish();
    keep_best();
    return;
  }
  finish();
  const auto start = Clock::now();
  Snapshot snapshot = take();
  // The copy is not all that is needed while it is there: files are written through memory.
  if (when == When::kMeanwhile && snapshot.bytes() * 5 / 4 > free_memory_bytes()) {
    when = When::kNow;
    if (!std::exchange(said_no_memory_, true)) {
      log::info("no memory for a copy of {}: training waits while checkpoints are written",
                format_bytes(static_cast<double>(snapshot.bytes())));
    }
  }
  if (when == When::kMeanwhile) snapshot.keep();
  copy_bytes_ = when == When::kMeanwhile ? snapshot.bytes() : 0;
  step_ = step;
  writing_ = std::async(when == When::kMeanwhile ? std::launch::async : std::launch::deferred,
                        [this, best, step, snapshot = std::move(snapshot)] {
                          const auto begin = Clock::now();
                          snapshot.write(run_ / "checkpoint");
                          keep_earlier(step);
                          if (best) keep_best();
                          return seconds_since(begin);
                        });
  blocked_ = seconds_since(start);
  if (when == When::kNow) finish();
}

void Checkpoints::look() {
  if (writing_.valid() && writing_.wait_for(0s) == std::future_status::ready) finish();
}

void Checkpoints::finish() {
  if (!writing_.valid()) return;
  const auto start = Clock::now();
  const double took = writing_.get();
  on_written_({step_, took, blocked_ + seconds_since(start)});
}

// The checkpoint itself is the last of those that are kept; it becomes an earlier one by the next.
// Those of later steps are of a course that the run left, and do not count.
void Checkpoints::keep_earlier(int64_t step) const {
  if (keep_last_ == 0 && keep_every_ == 0) return;
  const fs::path folder = run_ / "checkpoints";
  keep_checkpoint(run_ / "checkpoint", folder / fmt::format("step-{:09}", step));
  std::map<int64_t, fs::path> kept;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step-")) continue;
    const int64_t at = std::strtoll(name.c_str() + 5, nullptr, 10);
    if (at <= step) kept[at] = entry.path();
  }
  auto left = std::ssize(kept);
  for (const auto& [at, path] : kept) {
    if (left-- <= keep_last_ + 1) break;
    if (keep_every_ == 0 || at % keep_every_ != 0) fs::remove_all(path);
  }
}

void Checkpoints::keep_best() const { keep_checkpoint(run_ / "checkpoint", run_ / "best"); }

}  // namespace minke::train
