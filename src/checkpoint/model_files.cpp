#include "checkpoint/model_files.h"

#include <cstring>
#include <set>

#include "ops/elementwise.h"

namespace minke::checkpoint {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

// The names under which a MTP layer repeats the trunk's embedding and head.
std::vector<std::pair<std::string, std::string>> repeated_names(const model::ModelConfig& config) {
  std::vector<std::pair<std::string, std::string>> out;
  for (int64_t n = config.num_hidden_layers; n < config.layers(); ++n) {
    out.emplace_back(fmt::format("model.layers.{}.embed_tokens.weight", n), kEmbedding);
    out.emplace_back(fmt::format("model.layers.{}.shared_head.head.weight", n), kHead);
  }
  return out;
}

bool is_ignored(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

// The tensor as it lies in the file, or Error.
Tensor checked(const CheckpointFolder& files, const std::string& name, const Shape& shape) {
  const std::string where = files.file_of(name).path().string();
  const StoredTensor& stored = files.stored(name);
  if (stored.dtype != "BF16" && stored.dtype != "F32") {
    fail("{}: {}: dtype {}, expected BF16 or F32{}", where, name, stored.dtype,
         stored.dtype == "F8_E4M3"
             ? ": this version computes in those two, so an FP8 checkpoint must be converted first"
             : "");
  }
  const Tensor tensor = files.tensor(name);
  if (tensor.shape() != shape) {
    fail("{}: {}: shape {}, expected {} by config.json", where, name, to_string(tensor.shape()),
         to_string(shape));
  }
  return tensor;
}

void load_piece(model::Weight& weight, model::Piece& piece, const CheckpointFolder& files) {
  if (!files.contains(piece.name)) {
    fail("{}: {} is missing from the checkpoint{}", files.path().string(), piece.name,
         piece.name.find(".enorm.") != std::string::npos
             ? "; a file without its MTP layer needs num_nextn_predict_layers 0 in config.json"
             : "");
  }
  const Tensor stored = checked(files, piece.name, piece.shape);
  if (weight.owned()) {
    ops::convert(piece.value, stored);
  } else {
    piece.value = stored;
  }
}

void refuse_unknown(const CheckpointFolder& files,
                    const std::set<std::string, std::less<>>& known) {
  for (const auto& [name, file] : files.tensors()) {
    if (known.contains(name) || is_ignored(name)) continue;
    fail(
        "{}: {}: config.json's architecture has no such tensor; is this the config of another "
        "model?",
        file->path().string(), name);
  }
}

}  // namespace

fs::path model_folder(const fs::path& folder) {
  for (const fs::path& candidate : {folder, folder / "checkpoint"}) {
    recover_folder(candidate);
    if (fs::exists(candidate / "config.json")) return candidate;
  }
  if (!fs::exists(folder)) fail("{}: no such folder", folder.string());
  fail("{}: holds no config.json, expected a Hugging Face folder or a training run",
       folder.string());
}

void load_weights(model::Transformer& model, const CheckpointFolder& files, Use use) {
  std::set<std::string, std::less<>> known;
  model.for_each_weight([&](model::Weight& weight) {
    if (use == Use::kTraining || weight.kind() == model::Weight::Kind::kVector) weight.own();
    for (model::Piece& piece : weight.pieces()) {
      load_piece(weight, piece, files);
      known.insert(piece.name);
    }
  });
  model.for_each_router([&](int64_t, model::Router& router) {
    if (!router.has_bias()) return;
    if (!files.contains(router.bias_name)) {
      fail("{}: {} is missing from the checkpoint", files.path().string(), router.bias_name);
    }
    ops::convert(router.bias_E, checked(files, router.bias_name, router.bias_E.shape()));
    known.insert(router.bias_name);
  });
  for (const auto& [copy, original] : repeated_names(model.config())) {
    known.insert(copy);
    if (!files.contains(copy)) continue;
    const StoredTensor &a = files.stored(copy), &b = files.stored(original);
    if (a.dtype != b.dtype || a.shape != b.shape || std::memcmp(a.data, b.data, a.size) != 0) {
      fail("{}: {} differs from {}, which it repeats", files.file_of(copy).path().string(), copy,
           original);
    }
  }
  refuse_unknown(files, known);
}

void save_weights(const fs::path& folder, model::Transformer& model) {
  std::vector<TensorSpec> specs;
  std::map<std::string, Tensor> values;
  const auto add = [&](const std::string& name, const Tensor& value, DType dtype) {
    specs.emplace_back(name, dtype, value.shape());
    values[name] = value;
  };
  model.for_each_weight([&](model::Weight& weight) {
    for (const model::Piece& piece : weight.pieces()) add(piece.name, piece.value, DType::kBF16);
  });
  model.for_each_router([&](int64_t, model::Router& router) {
    if (router.has_bias()) add(router.bias_name, router.bias_E, DType::kF32);
  });
  for (const auto& [copy, original] : repeated_names(model.config())) {
    add(copy, values.at(original), DType::kBF16);
  }

  SafetensorsWriter writer(folder / "model.safetensors", specs);
  for (const TensorSpec& spec : writer.order()) {
    const Tensor& value = values.at(spec.name);
    if (spec.dtype == name_of(value.dtype())) {
      writer.write(value);
      continue;
    }
    const OwnedTensor converted(DType::kBF16, value.shape());
    ops::convert(converted, value);
    writer.write(converted);
  }
  writer.finish();
}

}  // namespace minke::checkpoint
