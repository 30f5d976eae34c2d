#include "checkpoint/model_files.h"

#include <cmath>
#include <cstring>
#include <set>

#include "base/log.h"
#include "checkpoint/quantize.h"
#include "checkpoint/stored_values.h"
#include "ops/elementwise.h"
#include "tensor/integers.h"
#include "tensor/scales.h"

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
Tensor checked(const CheckpointFolder& files, const std::string& name, const Shape& shape,
               bool may_be_codes = false) {
  const std::string where = files.file_of(name).path().string();
  const StoredTensor& stored = files.stored(name);
  const bool codes = stored.dtype == "F8_E4M3";
  if (stored.dtype != "BF16" && stored.dtype != "F32" && !(codes && may_be_codes)) {
    fail("{}: {}: dtype {}, expected BF16 or F32{}", where, name, stored.dtype,
         may_be_codes ? " or F8_E4M3"
         : codes      ? ": this one is never quantised, or config.json has no quantization_config"
                      : "");
  }
  const Tensor tensor = files.tensor(name);
  if (tensor.shape() != shape) {
    fail("{}: {}: shape {}, expected {} by config.json", where, name, to_string(tensor.shape()),
         to_string(shape));
  }
  return tensor;
}

void check_finite(const CheckpointFolder& files, const std::string& name, const Tensor& numbers) {
  for (const float x : numbers.span<float>()) {
    if (std::isfinite(x)) continue;
    fail("{}: {}: holds {}, expected finite numbers", files.file_of(name).path().string(), name, x);
  }
}

// The scales of a piece of codes, in whatever shard.
Tensor checked_scale(const CheckpointFolder& files, const model::Piece& piece) {
  const std::string name = scale_name(piece.name);
  if (!files.contains(name)) {
    fail("{}: {} is missing from the checkpoint, and {} is F8_E4M3", files.path().string(), name,
         piece.name);
  }
  const Tensor scale = files.tensor(name, DType::kF32, scale_shape(piece.shape, kBlock128x128));
  check_finite(files, name, scale);
  return scale;
}

bool may_be_codes(const model::ModelConfig& config, const model::Weight& weight,
                  const model::Piece& piece) {
  // Masters are FP32 whatever they are read from.
  return (config.quantization || weight.owned()) && is_fp8_weight(piece.name);
}

// A piece of integers and its scales, in whatever shard.
void load_integers(const model::Weight& weight, model::Piece& piece, DType format,
                   const CheckpointFolder& files) {
  const Tensor stored = files.tensor(piece.name, format, int_codes_shape(piece.shape, format));
  const std::string name = integer_scale_name(piece.name);
  const Tensor scale = files.tensor(name, DType::kBF16, int_scale_shape(piece.shape, format));
  for (const bf16 s : scale.span<bf16>()) {
    if (!std::isfinite(static_cast<float>(s))) {
      fail("{}: {}: holds {}, expected finite scales", files.file_of(name).path().string(), name,
           static_cast<float>(s));
    }
  }
  if (weight.owned()) return dequantize_integers(piece.value, stored, scale);
  piece.value = stored;
  piece.scale = scale;
}

void load_piece(const model::ModelConfig& config, const model::Weight& weight, model::Piece& piece,
                const CheckpointFolder& files) {
  if (!files.contains(piece.name)) {
    fail("{}: {} is missing from the checkpoint{}", files.path().string(), piece.name,
         piece.name.find(".enorm.") != std::string::npos
             ? "; a file without its MTP layer needs num_nextn_predict_layers 0 in config.json"
             : "");
  }
  if (const auto format = integers_of(config, piece.name)) {
    return load_integers(weight, piece, *format, files);
  }
  const Tensor stored =
      checked(files, piece.name, piece.shape, may_be_codes(config, weight, piece));
  Tensor scale;
  if (stored.dtype() == DType::kE4M3) scale = checked_scale(files, piece);
  if (!weight.owned()) {
    piece.value = stored;
    piece.scale = scale;
  } else if (scale.empty()) {
    ops::convert(piece.value, stored);
  } else {
    dequantize_e4m3(piece.value, stored, scale, kBlock128x128);
  }
}

// Pieces of one matrix are one operand.
void check_alike(const model::Weight& weight, const CheckpointFolder& files) {
  const model::Piece& first = weight.pieces().front();
  for (const model::Piece& piece : weight.pieces()) {
    if (weight.integers() || weight.codes() == (piece.value.dtype() == DType::kE4M3)) continue;
    fail("{}: {} is {} and {} is {}: what is computed together must be quantised together",
         files.path().string(), first.name, name_of(first.value.dtype()), piece.name,
         name_of(piece.value.dtype()));
  }
}

std::set<std::string, std::less<>> known_names(model::Transformer& architecture,
                                               const CheckpointFolder& files) {
  std::set<std::string, std::less<>> known;
  architecture.for_each_weight([&](const model::Weight& weight) {
    for (const model::Piece& piece : weight.pieces()) {
      known.insert(piece.name);
      const bool codes = files.contains(piece.name) && files.stored(piece.name).dtype == "F8_E4M3";
      if (codes) known.insert(scale_name(piece.name));
      if (integers_of(architecture.config(), piece.name)) {
        known.insert(integer_scale_name(piece.name));
      }
    }
  });
  architecture.for_each_router([&](int64_t, const model::Router& router) {
    if (router.has_bias()) known.insert(router.bias_name);
  });
  for (const auto& [copy, original] : repeated_names(architecture.config())) {
    known.insert(copy);
    if (integers_of(architecture.config(), copy)) known.insert(integer_scale_name(copy));
  }
  return known;
}

}  // namespace

fs::path model_folder(const fs::path& folder) {
  for (const fs::path& candidate :
       {last_good_folder(folder), last_good_folder(folder / "checkpoint")}) {
    if (fs::exists(candidate / "config.json")) return candidate;
  }
  if (!fs::exists(folder)) fail("{}: no such folder", folder.string());
  fail("{}: holds no config.json, expected a Hugging Face folder or a training run",
       folder.string());
}

bool has_weights(const fs::path& folder) {
  return fs::exists(folder / "model.safetensors") ||
         fs::exists(folder / "model.safetensors.index.json");
}

std::vector<StoredTensor> extra_tensors(model::Transformer& architecture,
                                        const CheckpointFolder& files, Extra extra) {
  const auto known = known_names(architecture, files);
  std::vector<StoredTensor> out;
  for (const auto& [name, file] : files.tensors()) {
    if (known.contains(name) || is_ignored(name)) continue;
    if (extra == Extra::kRefused) {
      fail(
          "{}: {}: config.json's architecture has no such tensor; is this the config of another "
          "model? (--allow-extra takes it along unused)",
          file->path().string(), name);
    }
    out.push_back(file->stored(name));
  }
  return out;
}

void list_extras(std::span<const StoredTensor> extras, std::string_view fate) {
  if (extras.empty()) return;
  constexpr size_t kShown = 8;
  std::string names;
  for (const StoredTensor& tensor : extras.first(std::min(kShown, extras.size()))) {
    names += (names.empty() ? "" : ", ") + tensor.name;
  }
  if (extras.size() > kShown) {
    names += fmt::format(" and {} more, which `minke inspect` lists", extras.size() - kShown);
  }
  log::info("tensors that the architecture does not name, {}: {}", fate, names);
}

std::optional<std::string> differing_copy(const model::ModelConfig& config,
                                          const CheckpointFolder& files) {
  for (const auto& [copy, original] : repeated_names(config)) {
    if (!files.contains(copy)) continue;
    const StoredTensor &a = files.stored(copy), &b = files.stored(original);
    if (a.dtype != b.dtype || a.shape != b.shape || std::memcmp(a.data, b.data, a.size) != 0) {
      return fmt::format("{}: {} differs from {}, which it repeats",
                         files.file_of(copy).path().string(), copy, original);
    }
  }
  return {};
}

std::vector<StoredTensor> load_weights(model::Transformer& model, const CheckpointFolder& files,
                                       Use use, Extra extra) {
  const auto& quantization = model.config().quantization;
  if (quantization && (quantization->rows != 128 || quantization->cols != 128)) {
    fail("{}: weight_block_size is [{}, {}], and this program computes in blocks of [128, 128]",
         files.path().string(), quantization->rows, quantization->cols);
  }
  model.for_each_weight([&](model::Weight& weight) {
    if (use == Use::kTraining || weight.kind() == model::Weight::Kind::kVector) weight.own();
    for (model::Piece& piece : weight.pieces()) {
      load_piece(model.config(), weight, piece, files);
    }
    if (!weight.owned()) check_alike(weight, files);
  });
  model.for_each_router([&](int64_t, model::Router& router) {
    if (!router.has_bias()) return;
    if (!files.contains(router.bias_name)) {
      fail("{}: {} is missing from the checkpoint", files.path().string(), router.bias_name);
    }
    ops::convert(router.bias_E, checked(files, router.bias_name, router.bias_E.shape()));
    // Every token would be sent to an expert whose bias is not a number, and no loss would say so.
    check_finite(files, router.bias_name, router.bias_E);
  });
  if (use == Use::kTraining) {
    if (const auto copy = differing_copy(model.config(), files)) {
      fail(
          "{}; with num_nextn_predict_layers 0 in config.json and --allow-extra the model is read "
          "without its MTP layer",
          *copy);
    }
  }
  return extra_tensors(model, files, extra);
}

std::vector<TensorToWrite> weights_to_save(model::Transformer& model) {
  std::vector<TensorToWrite> out;
  std::map<std::string, Tensor> values;
  const auto add = [&](const std::string& name, const Tensor& value, DType dtype) {
    out.push_back({name, value, dtype});
    values[name] = value;
  };
  model.for_each_weight([&](model::Weight& weight) {
    for (const model::Piece& piece : weight.pieces()) {
      if (weight.owned() && model.config().quantization && is_fp8_weight(piece.name)) {
        using As = TensorToWrite::As;
        const ScaleFormat scales = model.fp8().scales;
        out.push_back({piece.name, piece.value, DType::kE4M3, As::kCodes, scales});
        out.push_back({scale_name(piece.name), piece.value, DType::kF32, As::kScales, scales});
        continue;
      }
      const bool quantized = weight.codes() || weight.integers();
      add(piece.name, piece.value, quantized ? piece.value.dtype() : DType::kBF16);
      if (weight.codes()) add(scale_name(piece.name), piece.scale, DType::kF32);
      if (weight.integers()) add(integer_scale_name(piece.name), piece.scale, DType::kBF16);
    }
  });
  model.for_each_router([&](int64_t, model::Router& router) {
    if (router.has_bias()) add(router.bias_name, router.bias_E, DType::kF32);
  });
  for (const auto& [copy, original] : repeated_names(model.config())) {
    const Tensor value = values.at(original);
    add(copy, value, is_integers(value.dtype()) ? value.dtype() : DType::kBF16);
    const auto scale = values.find(integer_scale_name(original));
    if (scale != values.end()) add(integer_scale_name(copy), Tensor(scale->second), DType::kBF16);
  }
  return out;
}

void write_tensors(const fs::path& path, std::span<const TensorToWrite> tensors,
                   std::span<const StoredTensor> extras) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const TensorToWrite*> by_name;
  for (const TensorToWrite& tensor : tensors) {
    const bool scales = tensor.as == TensorToWrite::As::kScales;
    specs.emplace_back(
        tensor.name, tensor.dtype,
        scales ? scale_shape(tensor.value.shape(), kBlock128x128) : tensor.value.shape());
    by_name[tensor.name] = &tensor;
  }
  std::map<std::string, const StoredTensor*> carried;
  for (const StoredTensor& tensor : extras) {
    specs.push_back(tensor);
    carried[tensor.name] = &tensor;
  }
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.order()) {
    if (const auto extra = carried.find(spec.name); extra != carried.end()) {
      writer.write_bytes(extra->second->span());
      continue;
    }
    const TensorToWrite& tensor = *by_name.at(spec.name);
    const Tensor& value = tensor.value;
    if (tensor.as != TensorToWrite::As::kNumbers) {
      const Fp8Matrix matrix = quantized(value, tensor.scales);
      writer.write(tensor.as == TensorToWrite::As::kCodes ? matrix.codes : matrix.scale);
      continue;
    }
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
