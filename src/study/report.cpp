#include "study/report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/progress.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/json.h"
#include "checkpoint/model_files.h"
#include "model/cost.h"
#include "study/compressors.h"
#include "train/metrics.h"

namespace minke::study {

std::string_view embedded(std::string_view name);  // generated: cmake/embed.cmake

namespace {

using Json = nlohmann::ordered_json;

// Enough points for a curve on a screen; the last is always kept.
constexpr size_t kPoints = 600;

Json thinned(const std::vector<nlohmann::json>& events, size_t most) {
  Json out = Json::array();
  const size_t step = std::max<size_t>(1, (events.size() + most - 1) / most);
  for (size_t i = 0; i < events.size(); ++i) {
    if (i % step == 0 || i + 1 == events.size()) out.emplace_back(events[i]);
  }
  return out;
}

std::vector<nlohmann::json> of_kind(const std::vector<nlohmann::json>& events, const char* kind) {
  std::vector<nlohmann::json> out;
  for (const auto& event : events) {
    if (event.value("event", "") == kind) out.push_back(event);
  }
  return out;
}

// A script ends at the first "</", wherever it stands.
std::string inside_script(const std::string& json) {
  std::string out;
  for (size_t i = 0; i < json.size(); ++i) {
    out += json[i];
    if (json[i] == '<' && i + 1 < json.size() && json[i + 1] == '/') out += '\\';
  }
  return out;
}

std::vector<fs::path> paths_of(const Json& manifest, const char* key) {
  std::vector<fs::path> out;
  if (manifest.contains(key)) {
    for (const auto& path : manifest[key]) out.emplace_back(path.get<std::string>());
  }
  return out;
}

Json compressor_rows(const Json& manifest, const fs::path& run) {
  Json rows = Json::array();
  const auto train = paths_of(manifest, "train_files"), valid = paths_of(manifest, "valid_files");
  const auto there = [](const fs::path& path) { return fs::is_regular_file(path); };
  if (valid.empty() || !std::ranges::all_of(train, there) || !std::ranges::all_of(valid, there)) {
    return rows;
  }
  for (const CompressorResult& result : run_compressors(train, valid, run)) {
    rows.push_back({{"name", result.name}, {"bits_per_byte", result.bits_per_byte}});
  }
  return rows;
}

Json cache_rows(const model::ModelConfig& config) {
  const model::CacheBytes bytes = model::cache_bytes(config, 2);
  return {{{"name", "this model (MLA)"}, {"bytes", bytes.latent}, {"own", true}},
          {{"name", fmt::format("GQA, {} key-value head{}", bytes.gqa_heads,
                                bytes.gqa_heads == 1 ? "" : "s")},
           {"bytes", bytes.gqa}},
          {{"name", "MHA"}, {"bytes", bytes.mha}}};
}

}  // namespace

void write_report(const fs::path& run) {
  const auto manifest = checkpoint::parse_json<Json>(read_file(run / "manifest.json"),
                                                     (run / "manifest.json").string());
  const auto config = checkpoint::read_config(checkpoint::model_folder(run) / "config.json").model;
  const auto events = train::read_metrics(run / "metrics.jsonl");
  const auto steps = of_kind(events, "step"), evals = of_kind(events, "eval");
  if (steps.empty()) fail("{}: no step in metrics.jsonl yet", run.string());
  const auto counts = model::count_parameters(config);
  const nlohmann::json& last = steps.back();

  Json data;
  data["title"] =
      fmt::format("minke: {}", fs::absolute(run).lexically_normal().filename().string());
  data["subtitle"] = fmt::format(
      "A DeepSeek-V3 of {} layers: multi-head latent attention, {} routed experts of which {} see "
      "a token, {} shared, {} multi-token "
      "prediction depth{}.",
      config.num_hidden_layers, config.n_routed_experts, config.num_experts_per_tok,
      config.n_shared_experts, config.num_nextn_predict_layers,
      config.num_nextn_predict_layers == 1 ? "" : "s");
  data["facts"] = Json::array(
      {Json::array({"parameters", format_count(static_cast<double>(counts.total.total()))}),
       Json::array({"active for a token", format_count(static_cast<double>(
                                              counts.active.total() - counts.active.embedding))}),
       Json::array({"tokens learned from", format_count(last.value("tokens", 0.0))}),
       Json::array({"time", format_duration(last.value("seconds", 0.0))})});
  data["final"] = nullptr;
  for (const auto& eval : evals) {
    if (eval.value("whole", false)) data["final"] = eval;
  }
  if (!data["final"].is_null()) {
    data["facts"].push_back(
        Json::array({"bits a byte, held-out text",
                     fmt::format("{:.3f}", data["final"].value("bits_per_byte", 0.0))}));
  }
  data["steps"] = thinned(steps, kPoints);
  data["evals"] = evals;
  data["routers"] = thinned(of_kind(events, "routers"), kPoints);
  data["samples"] = of_kind(events, "sample");
  data["compressors"] = compressor_rows(manifest, run);
  data["cache"] = cache_rows(config);
  data["manifest"] = Json::array();
  for (const auto& [key, value] : manifest.items()) {
    data["manifest"].push_back(
        Json::array({key, value.is_string() ? value.get<std::string>() : value.dump()}));
  }

  std::string page(embedded("report.html"));
  const std::string mark = "@DATA@";
  const size_t at = page.find(mark);
  MINKE_CHECK(at != std::string::npos);
  page.replace(at, mark.size(),
               inside_script(data.dump(-1, ' ', false, Json::error_handler_t::replace)));
  write_file_atomic(run / "report.html", page);
}

}  // namespace minke::study
