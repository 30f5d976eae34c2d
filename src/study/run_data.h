// What a run wrote to metrics.jsonl, as its pages draw it: read as it grows, and thinned to a
// number of points that a page can hold, however long the run.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "base/file.h"

namespace minke::study {

// Events of one kind. Where they become too many, neighbours are merged: means of their numbers,
// the later one's step and whatever else counts up, and `loss_range`, the ends of their losses.
class ThinnedEvents {
 public:
  // Keeps from most / 2 to `most` of them (even, at least 2).
  explicit ThinnedEvents(size_t most) : most_(most) {}
  void add(nlohmann::json event);
  const std::vector<nlohmann::json>& events() const { return events_; }

 private:
  size_t most_, each_ = 1;  // how many are merged into one
  size_t in_last_ = 0;      // into the last one, so far
  std::vector<nlohmann::json> events_;
};

// What a run is called: its folder's own name.
std::string run_name(const fs::path& folder);

class RunData {
 public:
  // `run`: a run's folder, whose log may not be there yet.
  explicit RunData(const fs::path& run);

  // Reads what was written since; all, where the log was replaced (a run that is resumed drops what
  // came after its checkpoint). Error naming the line that is no event.
  void refresh();
  // Changes whenever the content does.
  std::string version() const;
  // {start (the last, or null), steps, evals, routers, modules, memory, samples, spikes, written
  // (when, in seconds since 1970)}.
  nlohmann::json json() const;
  const std::vector<nlohmann::json>& steps() const { return kinds_.at("step").events(); }
  // The evaluation of the whole held-out text, or null.
  const nlohmann::json& conclusion() const { return conclusion_; }

 private:
  void forget();

  fs::path path_;
  uint64_t inode_ = 0, read_ = 0;  // bytes
  int64_t lines_ = 0, replaced_ = 0;
  double written_ = 0;
  nlohmann::json start_, conclusion_;
  std::map<std::string, ThinnedEvents> kinds_;
};

}  // namespace minke::study
