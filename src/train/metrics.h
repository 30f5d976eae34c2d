// metrics.jsonl of a run: one JSON object a line, each with "event" and "step". docs/METRICS.md has
// every field of every event, and a test holds what is written to it.
#pragma once

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/file.h"
#include "base/profile.h"
#include "model/memory.h"
#include "ops/quantize_counts.h"
#include "train/evaluate.h"
#include "train/tensorboard.h"
#include "train/trainer.h"

namespace minke::train {

class MetricsLog {
 public:
  // Continues a log: lines of steps beyond `step` (of a run that went on after its last checkpoint)
  // are dropped.
  MetricsLog(fs::path path, int64_t step);
  // From now on all events, those that are there too, are also in `folder` for TensorBoard.
  void write_tensorboard(const fs::path& folder);
  void write(const nlohmann::json& event);

 private:
  fs::path path_;
  std::ofstream out_;
  std::optional<TensorBoardFile> tensorboard_;
};

// What of an event the pieces that are passed know; the rest is for the caller to add.
nlohmann::json step_event(const StepReport& report, const std::vector<ProfileEntry>& profile);
// `done`: steps that were done when it was met.
nlohmann::json spike_event(const StepReport& report, int64_t done, const std::string& action);
nlohmann::json modules_event(const StepReport& report);
nlohmann::json routers_event(int64_t step, const std::vector<RouterLoad>& routers);
nlohmann::json fp8_event(int64_t step, const std::vector<ops::QuantizeCounts>& counts);
nlohmann::json memory_event(int64_t step, const model::StepMemory& planned, const Trainer& trainer);
nlohmann::json eval_event(int64_t step, const Evaluation& result);

using OnEvent = std::function<void(nlohmann::json&)>;
// Calls on_event for the event in `text`, line `line` of a log. Error naming that line, if it is no
// event, or if on_event finds a field of another kind.
void read_event(const fs::path& path, int64_t line, std::string_view text, const OnEvent& on_event);
// The same for each line of a log, in order.
void read_metrics(const fs::path& path, const OnEvent& on_event);

}  // namespace minke::train
