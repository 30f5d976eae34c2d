#include "checkpoint/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/thread_pool.h"
#include "checkpoint/stored_values.h"
#include "tensor/integers.h"

namespace minke::checkpoint {
namespace {

// Whether block (i, j) of x is its codes times this scale, to the last bit.
bool is_codes_times(float scale, const Fp8Matrix& matrix, const Tensor& x, int64_t i, int64_t j) {
  const int64_t N = x.dim(1), last_row = std::min(x.dim(0), (i + 1) * kBlock128x128.rows),
                last_column = std::min(N, (j + 1) * kBlock128x128.cols);
  const auto* codes = static_cast<const uint8_t*>(matrix.codes.raw());
  for (int64_t r = i * kBlock128x128.rows; r < last_row; ++r) {
    for (int64_t c = j * kBlock128x128.cols; c < last_column; ++c) {
      if (e4m3_decode(codes[r * N + c]) * scale != x.data<float>()[r * N + c]) return false;
    }
  }
  return true;
}

// Of numbers that are codes times a scale already, as a file had them, amax / 448 may be a rounding
// beside that scale: it is kept, so that what nobody changed is written as it was read.
void keep_scales(const Fp8Matrix& matrix, const Tensor& x, int64_t i) {
  for (int64_t j = 0; j < matrix.scale.dim(1); ++j) {
    float& scale = matrix.scale.data<float>()[i * matrix.scale.dim(1) + j];
    for (const float other : {scale, std::nextafter(scale, 0.0F), std::nextafter(scale, 1e38F)}) {
      if (!is_codes_times(other, matrix, x, i, j)) continue;
      scale = other;
      break;
    }
  }
}

}  // namespace

// Blocks do not depend on each other: rows of them are shared out.
Fp8Matrix quantized(const Tensor& x, ScaleFormat format) {
  const Shape shape = x.shape();
  Fp8Matrix out{OwnedTensor(DType::kE4M3, shape),
                OwnedTensor(DType::kF32, scale_shape(shape, kBlock128x128))};
  parallel_for(out.scale.dim(0), 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kBlock128x128.rows,
                  rows = std::min(shape[0], end * kBlock128x128.rows) - first;
    quantize_e4m3(out.codes.rows(first, rows), out.scale.rows(begin, end - begin),
                  x.rows(first, rows), kBlock128x128, format);
    for (int64_t i = begin; i < end; ++i) keep_scales(out, x, i);
  });
  return out;
}

namespace {

// What a tensor becomes, and what its scales are.
struct Form {
  DType format;
  std::string scale_name;
  TensorSpec codes, scale;
  Form(const model::ModelConfig& config, const std::string& name, const Shape& shape) {
    if (const auto integers = integers_of(config, name)) {
      format = *integers;
      scale_name = integer_scale_name(name);
      codes = {name, format, int_codes_shape(shape, format)};
      scale = {scale_name, DType::kBF16, int_scale_shape(shape, format)};
    } else {
      format = DType::kE4M3;
      scale_name = checkpoint::scale_name(name);
      codes = {name, format, shape};
      scale = {scale_name, DType::kF32, scale_shape(shape, kBlock128x128)};
    }
  }
};

struct Codes {
  OwnedTensor codes, scale;
};

Codes as_integers(const Tensor& x, DType format) {
  const Shape shape = x.shape();
  Codes out{OwnedTensor(format, int_codes_shape(shape, format)),
            OwnedTensor(DType::kBF16, int_scale_shape(shape, format))};
  parallel_for(shape[0], kBlock128x128.rows, [&](int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    quantize_integers(out.codes.rows(begin, rows), out.scale.rows(begin, rows),
                      x.rows(begin, rows));
  });
  return out;
}

// Block scales of codes that become integers.
bool is_dropped(const model::ModelConfig& config, std::string_view name) {
  const std::string_view end = "_scale_inv";
  return name.ends_with(end) && integers_of(config, name.substr(0, name.size() - end.size()));
}

bool is_quantized(const model::ModelConfig& config, const std::string& name) {
  return is_fp8_weight(name) || integers_of(config, name);
}

Codes read_quantized(const CheckpointFolder& files, const StoredTensor& stored, DType format) {
  const Shape shape(stored.shape);
  std::vector<float> values = stored_values(files, stored.name, shape);
  const Tensor x(values.data(), shape);
  try {
    if (is_integers(format)) return as_integers(x, format);
    Fp8Matrix fp8 = quantized(x, ScaleFormat::kF32);
    return {std::move(fp8.codes), std::move(fp8.scale)};
  } catch (const Error& error) {
    fail("{}: {}: {}", files.file_of(stored.name).path().string(), stored.name, error.what());
  }
}

// Names of tensors that stay as they are.
using Extras = std::set<std::string, std::less<>>;

std::vector<TensorSpec> specs_of(const SafetensorsFile& shard, const Extras& extras,
                                 const model::ModelConfig& config) {
  std::vector<TensorSpec> out;
  for (const auto& [name, stored] : shard.tensors()) {
    if (is_dropped(config, name)) continue;
    if (!is_quantized(config, name) || extras.contains(name)) {
      out.push_back(stored);
      continue;
    }
    if (stored.shape.size() != 2) fail("{}: {}: not a matrix", shard.path().string(), name);
    const Form form(config, name, Shape(stored.shape));
    out.push_back(form.codes);
    out.push_back(form.scale);
  }
  return out;
}

void write_shard(const fs::path& path, const SafetensorsFile& shard, const CheckpointFolder& files,
                 const Extras& extras, const model::ModelConfig& config,
                 const std::function<void(uint64_t)>& on_bytes) {
  SafetensorsWriter writer(path, specs_of(shard, extras, config));
  std::map<std::string, std::string> weight_of;  // by the name of its scales
  for (const auto& [name, stored] : shard.tensors()) {
    if (!is_quantized(config, name) || extras.contains(name)) continue;
    weight_of[Form(config, name, Shape(stored.shape)).scale_name] = name;
  }
  for (const TensorSpec& spec : writer.order()) {
    // Codes and scales are not written together: a weight is quantised for each, and never kept.
    const bool is_scale = weight_of.contains(spec.name);
    const std::string& name = is_scale ? weight_of.at(spec.name) : spec.name;
    const StoredTensor& stored = shard.stored(name);
    if (!is_quantized(config, name) || extras.contains(name)) {
      writer.write_bytes(stored.span());
      on_bytes(stored.size);
      continue;
    }
    const DType format = Form(config, name, Shape(stored.shape)).format;
    const Codes codes = read_quantized(files, stored, format);
    writer.write(is_scale ? codes.scale : codes.codes);
    if (!is_scale) on_bytes(stored.size);
  }
  writer.finish();
}

}  // namespace

bool is_fp8_weight(std::string_view name) {
  constexpr std::array<std::string_view, 9> kProjections = {".q_proj.weight",
                                                            ".q_a_proj.weight",
                                                            ".q_b_proj.weight",
                                                            ".kv_b_proj.weight",
                                                            ".kv_a_proj_with_mqa.weight",
                                                            ".o_proj.weight",
                                                            ".gate_proj.weight",
                                                            ".up_proj.weight",
                                                            ".down_proj.weight"};
  return std::ranges::any_of(kProjections, [&](auto p) { return name.ends_with(p); });
}

QuantizedSizes quantize(const fs::path& into, const CheckpointFolder& files, const HfConfig& config,
                        Extra extra, const model::Fp8Blocks& how,
                        const std::function<void(uint64_t)>& on_bytes) {
  const auto& had = config.model.quantization;
  if (had && (had->expert_bits + had->head_bits > 0 || how.expert_bits + how.head_bits == 0)) {
    fail("{}: its weights are {} already (quantization_config)", files.path().string(),
         had->expert_bits + had->head_bits > 0 ? "integers" : "FP8");
  }
  HfConfig quantized_config = config;
  quantized_config.model.quantization = how;
  if (had) quantized_config.model.quantization->ue8m0 = had->ue8m0;
  const model::ModelConfig& to = quantized_config.model;
  to.check();
  model::Transformer architecture(config.model, model::Precision::kBF16);
  const std::vector<StoredTensor> carried = extra_tensors(architecture, files, extra);
  list_extras(carried, "written as they are");
  Extras extras;
  for (const StoredTensor& tensor : carried) extras.insert(tensor.name);
  for (const auto& [name, shard] : files.tensors()) {
    if (had && !integers_of(to, name)) extras.insert(name);  // FP8 stays what it is
  }
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [name, shard] : files.tensors()) shards[shard->path().filename()] = shard;
  if (shards.size() == 1) shards = {{"model.safetensors", shards.begin()->second}};
  QuantizedSizes sizes;
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (const auto& [file, shard] : shards) {
    write_shard(into / file, *shard, files, extras, to, on_bytes);
    for (const auto& [name, stored] : shard->tensors()) sizes.before += stored.size;
    for (const TensorSpec& spec : specs_of(*shard, extras, to)) {
      sizes.after += spec.bytes();
      map[spec.name] = file;
    }
  }
  if (shards.size() > 1) {
    const nlohmann::ordered_json index = {{"metadata", {{"total_size", sizes.after}}},
                                          {"weight_map", std::move(map)}};
    write_file_atomic(into / "model.safetensors.index.json", index.dump(2) + "\n");
  }
  write_file_atomic(into / "config.json", config_text(quantized_config));
  return sizes;
}

}  // namespace minke::checkpoint
