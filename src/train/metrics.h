// metrics.jsonl of a run: one JSON object a line, each with "event" and "step".
//
//   step      loss, mtp_loss [by depth], balance, learning_rate, gradient_norm, clipped,
//             tokens (so far), epochs, tokens_per_second,
//             peak_share (of the measured peak of the processor),
//             max_vio (worst layer), seconds (so far)
//   routers   layers: [{layer, counts, bias, max_vio}], counts summed since the event before
//   eval      loss [by depth], perplexity, bits_per_byte, tokens, bytes,
//             whole (all of the held-out text), acceptance (where there is MTP)
//   sample    prompt, text
// Losses are means in nats a token.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "train/trainer.h"

namespace minke::train {

class MetricsLog {
 public:
  // Continues a log: lines of steps beyond `step` (of a run that went on after its last checkpoint)
  // are dropped.
  MetricsLog(fs::path path, int64_t step);
  void write(const nlohmann::json& event);

 private:
  fs::path path_;
  std::ofstream out_;
};

nlohmann::json step_event(const StepReport& report);
nlohmann::json routers_event(int64_t step, const std::vector<RouterLoad>& routers);

// All events of a log, in order. Error naming the line that is no JSON object.
std::vector<nlohmann::json> read_metrics(const fs::path& path);

}  // namespace minke::train
