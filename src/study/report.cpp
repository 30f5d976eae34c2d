#include "study/report.h"

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"
#include "model/cost.h"
#include "study/compressors.h"
#include "study/pages.h"
#include "study/run_data.h"

namespace minke::study {

namespace {

using Json = nlohmann::ordered_json;

std::vector<train::SourceFile> files_of(const Json& manifest, const char* key) {
  std::vector<train::SourceFile> out;
  for (const auto& path : manifest.at(key)) {
    out.push_back(train::source_file(path.get<std::string>()));
  }
  return out;
}

// Adds what compressors make of the texts, or why they made nothing.
void add_compressors(Json& data, const Json& manifest, const fs::path& run) {
  data["compressors"] = Json::array();
  try {
    const auto train = files_of(manifest, "train_files"), valid = files_of(manifest, "valid_files");
    if (valid.empty()) return;
    const auto field = manifest.at("flags").at("text-field").get<std::string>();
    for (const CompressorResult& result : run_compressors(train, valid, field, run)) {
      data["compressors"].push_back(
          {{"name", result.name}, {"bits_per_byte", result.bits_per_byte}});
    }
  } catch (const std::exception& error) {
    log::warn("report.html has no compressors beside the model: {}", error.what());
    data["compressors_fault"] = error.what();
  }
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
  const auto manifest =
      parse_json<Json>(read_file(run / "manifest.json"), (run / "manifest.json").string());
  const auto config = checkpoint::read_config(checkpoint::model_folder(run) / "config.json").model;
  RunData events(run);
  events.refresh();
  if (events.steps().empty()) fail("{}: no step in metrics.jsonl yet", run.string());
  const auto counts = model::count_parameters(config);
  const nlohmann::json& last = events.steps().back();

  Json data;
  data["title"] = fmt::format("minke: {}", run_name(run));
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
  data["final"] = events.conclusion();
  if (!data["final"].is_null()) {
    data["facts"].push_back(
        Json::array({"bits a byte, held-out text",
                     fmt::format("{:.3f}", data["final"].value("bits_per_byte", 0.0))}));
  }
  data["run"] = events.json();
  data["run"]["name"] = "this model";
  add_compressors(data, manifest, run);
  data["cache"] = cache_rows(config);
  data["manifest"] = Json::array();
  for (const auto& [key, value] : manifest.items()) {
    data["manifest"].push_back(
        Json::array({key, value.is_string() ? value.get<std::string>() : value.dump()}));
  }

  write_file_atomic(run / "report.html", page("report", data));
}

}  // namespace minke::study
