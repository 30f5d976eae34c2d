#include "train/metrics.h"

#include <algorithm>
#include <sstream>

namespace minke::train {
namespace {

std::vector<double> max_vio_by_layer(const std::vector<RouterLoad>& routers) {
  std::vector<double> out;
  for (const RouterLoad& router : routers) out.push_back(router.max_vio());
  return out;
}

}  // namespace

MetricsLog::MetricsLog(fs::path path, int64_t step) : path_(std::move(path)) {
  if (fs::exists(path_)) {
    std::string kept;
    read_metrics(path_, [&](const nlohmann::json& event) {
      if (event["step"] <= step) kept += event.dump() + "\n";
    });
    write_file_atomic(path_, kept);
  }
  out_.open(path_, std::ios::app);
  if (!out_) fail("{}: cannot be written", path_.string());
}

void MetricsLog::write_tensorboard(const fs::path& folder) {
  tensorboard_.emplace(folder);
  read_metrics(path_, [&](const nlohmann::json& event) { tensorboard_->write(event); });
}

void MetricsLog::write(const nlohmann::json& event) {
  // A sample may end in the middle of a character.
  const std::string line = event.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  out_ << line << std::endl;
  if (!out_) fail("{}: cannot be written (is the disk full?)", path_.string());
  if (tensorboard_) tensorboard_->write(nlohmann::json::parse(line));
}

nlohmann::json step_event(const StepReport& r, const std::vector<ProfileEntry>& profile) {
  nlohmann::json time;
  for (const char* phase : {"data", "forward", "loss", "backward", "update"}) {
    const auto entry = std::ranges::find(profile, phase, &ProfileEntry::name);
    time[phase] = entry == profile.end() ? 0.0 : entry->whole;
  }
  nlohmann::json event = {{"event", "step"},
                          {"step", r.step},
                          {"loss", r.loss},
                          {"mtp_loss", r.mtp_loss},
                          {"balance", r.balance},
                          {"learning_rate", r.learning_rate},
                          {"gradient_norm", r.gradient_norm},
                          {"clipped", r.clipped},
                          {"max_vio", worst_max_vio(r.routers)},
                          {"max_vio_by_layer", max_vio_by_layer(r.routers)},
                          {"dead_experts", dead_experts(r.routers)},
                          {"time", time}};
  if (r.shadow_loss) {
    event["shadow"] = {{"loss", *r.shadow_loss},
                       {"difference", (r.loss - *r.shadow_loss) / *r.shadow_loss}};
  }
  return event;
}

nlohmann::json fp8_event(int64_t step, const std::vector<ops::QuantizeCounts>& counts) {
  nlohmann::json kinds = nlohmann::json::array();
  for (const ops::QuantizeCounts& c : counts) {
    kinds.push_back({{"kind", c.kind},
                     {"numbers", c.numbers},
                     {"saturated", c.saturated},
                     {"underflowed", c.underflowed},
                     {"least_scale", c.least_scale},
                     {"largest_scale", c.largest_scale}});
  }
  return {{"event", "fp8"}, {"step", step}, {"kinds", kinds}};
}

nlohmann::json spike_event(const StepReport& r, int64_t done, const std::string& action) {
  nlohmann::json event = {{"event", "spike"}, {"step", done}, {"at", r.step}, {"action", action}};
  if (!r.spike.finite) return event;
  event["loss"] = r.loss;
  event["loss_z"] = r.spike.loss_z;
  event["gradient_norm"] = r.gradient_norm;
  event["gradient_z"] = r.spike.gradient_z;
  return event;
}

nlohmann::json modules_event(const StepReport& r) {
  nlohmann::json modules = nlohmann::json::array();
  for (const ModuleNorms& n : r.modules) {
    modules.push_back({{"module", n.module},
                       {"gradient", n.gradient},
                       {"update", n.update},
                       {"weight", n.weight}});
    if (n.layer != ModuleNorms::kNoLayer) modules.back()["layer"] = n.layer;
  }
  return {{"event", "modules"}, {"step", r.step}, {"modules", modules}};
}

nlohmann::json routers_event(int64_t step, const std::vector<RouterLoad>& routers) {
  nlohmann::json layers = nlohmann::json::array();
  for (const RouterLoad& r : routers) {
    layers.push_back({{"layer", r.layer},
                      {"counts", r.counts},
                      {"bias", r.bias},
                      {"max_vio", r.max_vio()},
                      {"dead_experts", r.dead()}});
  }
  return {{"event", "routers"}, {"step", step}, {"layers", layers}};
}

nlohmann::json memory_event(int64_t step, const model::StepMemory& planned,
                            const Trainer& trainer) {
  return {{"event", "memory"},
          {"step", step},
          {"weights", planned.weights},
          {"gradients", planned.gradients},
          {"moments", planned.moments},
          {"averages", planned.averages},
          {"operands", planned.operands},
          {"activations", trainer.peak_activations()},
          {"workspace", trainer.peak_workspace()},
          {"resident", resident_memory_bytes()}};
}

nlohmann::json eval_event(int64_t step, const Evaluation& result) {
  nlohmann::json losses = nlohmann::json::array();
  for (const EvalDepth& depth : result.depth) losses.push_back(depth.loss);
  nlohmann::json event = {{"event", "eval"},
                          {"step", step},
                          {"loss", losses},
                          {"perplexity", result.depth[0].perplexity()},
                          {"bits_per_byte", result.bits_per_byte},
                          {"tokens", result.tokens},
                          {"bytes", result.bytes}};
  if (result.acceptance >= 0) event["acceptance"] = result.acceptance;
  if (result.loads_known()) {
    event["max_vio"] = worst_max_vio(result.routers);
    event["max_vio_by_layer"] = max_vio_by_layer(result.routers);
    event["dead_experts"] = dead_experts(result.routers);
  }
  return event;
}

void read_event(const fs::path& path, int64_t line, std::string_view text,
                const OnEvent& on_event) {
  auto event = nlohmann::json::parse(text, nullptr, false);
  if (!event.is_object() || !event.contains("event") || !event["event"].is_string() ||
      !event.contains("step") || !event["step"].is_number_integer()) {
    fail("{}:{}: expected an object with \"event\", a text, and \"step\", an integer",
         path.string(), line);
  }
  try {
    on_event(event);
  } catch (const nlohmann::json::exception& error) {
    fail("{}:{}: the line is damaged: {}", path.string(), line, error.what());
  }
}

void read_metrics(const fs::path& path, const OnEvent& on_event) {
  std::istringstream in(read_file(path));
  int64_t lines = 0;
  for (std::string line; std::getline(in, line);) {
    // A line cut short by a kill is the last one; it is of no step that counts.
    if (in.eof() && !nlohmann::json::accept(line)) break;
    read_event(path, ++lines, line, on_event);
  }
}

}  // namespace minke::train
