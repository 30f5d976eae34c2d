#include "train/metrics.h"

namespace minke::train {

MetricsLog::MetricsLog(fs::path path, int64_t step) : path_(std::move(path)) {
  if (fs::exists(path_)) {
    std::string kept;
    for (const auto& event : read_metrics(path_)) {
      if (event.value("step", int64_t{0}) <= step) kept += event.dump() + "\n";
    }
    write_file_atomic(path_, kept);
  }
  out_.open(path_, std::ios::app);
  if (!out_) fail("{}: cannot be written", path_.string());
}

void MetricsLog::write(const nlohmann::json& event) {
  // A sample may end in the middle of a character.
  out_ << event.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
  if (!out_) fail("{}: cannot be written (is the disk full?)", path_.string());
}

nlohmann::json step_event(const StepReport& r) {
  return {{"event", "step"},
          {"step", r.step},
          {"loss", r.loss},
          {"mtp_loss", r.mtp_loss},
          {"balance", r.balance},
          {"learning_rate", r.learning_rate},
          {"gradient_norm", r.gradient_norm},
          {"clipped", r.clipped},
          {"max_vio", r.worst_max_vio()}};
}

nlohmann::json routers_event(int64_t step, const std::vector<RouterLoad>& routers) {
  nlohmann::json layers = nlohmann::json::array();
  for (const RouterLoad& r : routers) {
    layers.push_back(
        {{"layer", r.layer}, {"counts", r.counts}, {"bias", r.bias}, {"max_vio", r.max_vio()}});
  }
  return {{"event", "routers"}, {"step", step}, {"layers", layers}};
}

std::vector<nlohmann::json> read_metrics(const fs::path& path) {
  std::vector<nlohmann::json> out;
  const std::string text = read_file(path);
  size_t line = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    ++line;
    auto event =
        nlohmann::json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                              text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    // A line cut short by a kill is the last one; it is of no step that counts.
    if (event.is_discarded() && end == text.size()) break;
    if (!event.is_object()) fail("{}:{}: expected a JSON object", path.string(), line);
    out.push_back(std::move(event));
    begin = end + 1;
  }
  return out;
}

}  // namespace minke::train
