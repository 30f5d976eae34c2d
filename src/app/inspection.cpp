#include "app/inspection.h"

#include "base/error.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"

namespace minke::app {
namespace {

using Json = nlohmann::ordered_json;

// The length that training's FLOPs are told for, where the model reads as many: V3's own.
constexpr int64_t kTrainingLength = 4096;

Files inspect_files(const fs::path& folder, const model::ModelConfig& config) {
  const checkpoint::CheckpointFolder checkpoint(folder);
  model::Transformer architecture(config, model::Precision::kBF16);
  Files out;
  for (const auto& tensor :
       checkpoint::extra_tensors(architecture, checkpoint, checkpoint::Extra::kKept)) {
    out.extras.push_back(tensor);
  }
  const auto count = [&](const std::string& name, const Shape& shape) {
    if (checkpoint.contains(name)) out.parameters += shape.count();
  };
  architecture.for_each_weight([&](model::Weight& weight) {
    for (const model::Piece& piece : weight.pieces()) count(piece.name, piece.shape);
  });
  architecture.for_each_router([&](int64_t, const model::Router& router) {
    if (router.has_bias()) count(router.bias_name, router.bias_E.shape());
  });
  for (const auto& [name, file] : checkpoint.tensors()) {
    const checkpoint::StoredTensor& tensor = file->stored(name);
    int64_t numbers = 1;
    for (const int64_t n : tensor.shape) numbers *= n;
    for (Dtype* sum :
         {&out.all, &out.by_dtype[tensor.dtype], &out.by_file[file->path().filename()]}) {
      ++sum->tensors;
      sum->numbers += numbers;
      sum->bytes += tensor.size;
    }
  }
  return out;
}

Json json_of(const model::Parameters& p) {
  Json out;
  out["total"] = p.total();
  out["without_embedding"] = p.without_embedding();
  out["without_embedding_and_head"] = p.without_embedding_and_head();
  for (const Component& component : kComponents) out[component.key] = p.*component.count;
  return out;
}

Json json_of(const std::map<std::string, Dtype>& sums) {
  Json out = Json::object();
  for (const auto& [name, sum] : sums) {
    out[name] = {{"tensors", sum.tensors}, {"numbers", sum.numbers}, {"bytes", sum.bytes}};
  }
  return out;
}

}  // namespace

Inspection inspect(const fs::path& path) {
  if (!fs::exists(path)) fail("{}: no such file or folder", path.string());
  const bool is_folder = fs::is_directory(path);
  const fs::path found = is_folder ? checkpoint::model_folder(path) : path;
  Inspection out;
  out.path = found.string();
  out.config = checkpoint::read_config(is_folder ? found / "config.json" : found).model;
  out.parameters = model::count_parameters(out.config);
  out.cache = model::cache_bytes(out.config, kCacheNumber);
  out.train_positions = std::min(kTrainingLength, out.config.max_position_embeddings);
  out.train = model::train_flops_per_token(out.config, out.train_positions, 0);
  if (is_folder && checkpoint::has_weights(found)) out.files = inspect_files(found, out.config);
  return out;
}

nlohmann::ordered_json json_of(const Inspection& i) {
  Json out;
  out["path"] = i.path;
  out["config"] = Json::parse(checkpoint::config_text({i.config, Json::object()}));
  out["parameters"] = {{"total", json_of(i.parameters.total)},
                       {"active", json_of(i.parameters.active)},
                       {"mtp_total", json_of(i.parameters.mtp_total)},
                       {"mtp_active", json_of(i.parameters.mtp_active)}};
  out["cache_bytes_per_token"] = {{"number_bytes", kCacheNumber},
                                  {"latent", i.cache.latent},
                                  {"gqa", i.cache.gqa},
                                  {"gqa_heads", i.cache.gqa_heads},
                                  {"mha", i.cache.mha}};
  out["train_flops_per_token"] = {{"positions", i.train_positions},
                                  {"weights", i.train.weights},
                                  {"attention", i.train.attention},
                                  {"total", i.train.total()}};
  if (i.files) {
    Json extras = Json::array();
    for (const checkpoint::TensorSpec& tensor : i.files->extras) extras.push_back(tensor.name);
    out["files"] = {{"bytes", i.files->all.bytes},
                    {"tensors", i.files->all.tensors},
                    {"parameters", i.files->parameters},
                    {"by_file", json_of(i.files->by_file)},
                    {"by_dtype", json_of(i.files->by_dtype)},
                    {"extra", extras}};
  }
  return out;
}

}  // namespace minke::app
