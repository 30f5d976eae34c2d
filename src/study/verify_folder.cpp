#include "study/verify_folder.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/stored_values.h"
#include "tensor/scales.h"

namespace minke::study {
namespace {

using checkpoint::SafetensorsFile;
using nlohmann::json;

// Positions of a batch; far more than float64 is fit for.
constexpr int64_t kMaxTokens = int64_t{1} << 20;

std::vector<int32_t> read_tokens(const SafetensorsFile& file, const std::string& name,
                                 const Shape& shape) {
  const auto numbers = file.tensor(name, DType::kI32, shape).span<int32_t>();
  return {numbers.begin(), numbers.end()};
}

// The engine takes a run of equal numbers for a document; an oracle that compares numbers sees more
// in one that begins again.
void check_documents(const ReferenceBatch& batch, const std::string& where) {
  for (int64_t b = 0; b < batch.sequences; ++b) {
    std::set<int32_t> begun;
    for (int64_t i = 0; i < batch.positions; ++i) {
      const int64_t at = b * batch.positions + i;
      const int32_t document = batch.documents[at];
      if (i > 0 && document == batch.documents[at - 1]) continue;
      if (!begun.insert(document).second) {
        fail("{}: documents: {} begins again in sequence {}, expected one run of tokens", where,
             document, b);
      }
    }
  }
}

void read_batch(GoldenFolder& folder, const SafetensorsFile& file) {
  const model::ModelConfig& c = folder.config.model;
  const std::string where = file.path().string();
  const Tensor tokens = file.tensor("tokens");
  ReferenceBatch& batch = folder.batch;
  if (tokens.rank() != 2 || tokens.dtype() != DType::kI32) {
    fail("{}: tokens: {} {}, expected I32 [sequences, positions]", where, name_of(tokens.dtype()),
         to_string(tokens.shape()));
  }
  batch.sequences = tokens.dim(0);
  batch.positions = tokens.dim(1);
  const int64_t least = c.num_nextn_predict_layers + 2;  // so that every depth has a target
  if (batch.sequences < 1 || batch.positions < least || tokens.count() > kMaxTokens ||
      batch.positions > c.max_position_embeddings) {
    fail(
        "{}: tokens: {}, expected at least 1 sequence of {} to {} positions, and at most {} tokens",
        where, to_string(tokens.shape()), least, c.max_position_embeddings, kMaxTokens);
  }
  batch.tokens = read_tokens(file, "tokens", tokens.shape());
  for (const int32_t token : batch.tokens) {
    if (token < 0 || token >= c.vocab_size) {
      fail("{}: tokens: {}, expected 0 to {} by config.json's vocab_size", where, token,
           c.vocab_size - 1);
    }
  }
  if (file.contains("documents")) {
    batch.documents = read_tokens(file, "documents", tokens.shape());
    check_documents(batch, where);
  }
}

// Experts of a token: each in range, ascending, none twice.
void check_experts(const std::vector<int32_t>& experts, const model::ModelConfig& c,
                   const std::string& where) {
  for (size_t i = 0; i < experts.size(); ++i) {
    const bool first = static_cast<int64_t>(i) % c.num_experts_per_tok == 0;
    const bool ascends = first || experts[i] > experts[i - 1];
    if (experts[i] < 0 || experts[i] >= c.n_routed_experts || !ascends) {
      fail("{}: {} at {}, expected ascending experts from 0 to {} for each token", where,
           experts[i], i, c.n_routed_experts - 1);
    }
  }
}

void read_results(GoldenFolder& folder, const SafetensorsFile& file) {
  std::map<std::string, GoldenTensor> expected;
  for (GoldenTensor& tensor : golden_tensors(folder.config.model, folder.batch)) {
    expected[tensor.name] = std::move(tensor);
  }
  const std::string where = file.path().string();
  for (const auto& [name, stored] : file.tensors()) {
    if (name == "tokens" || name == "documents") continue;
    const auto found = expected.find(name);
    if (found == expected.end()) {
      fail("{}: {}: by config.json there is no such result", where, name);
    }
    const GoldenTensor& what = found->second;
    const Tensor tensor =
        file.tensor(name, what.dtype, Shape(std::span<const int64_t>(what.shape)));
    if (what.dtype == DType::kF32) {
      const auto numbers = tensor.span<float>();
      folder.golden.numbers[name].assign(numbers.begin(), numbers.end());
      continue;
    }
    const auto numbers = tensor.span<int32_t>();
    if (name.ends_with(".counts")) {
      folder.golden.counts[what.layer].assign(numbers.begin(), numbers.end());
      continue;
    }
    auto& experts = folder.golden.experts[what.layer];
    experts.assign(numbers.begin(), numbers.end());
    check_experts(experts, folder.config.model, fmt::format("{}: {}", where, name));
  }
}

// The fields of golden.json, each of which may be absent.
class Fields {
 public:
  Fields(const fs::path& path, std::vector<std::string>& lacks)
      : where_(path.string()),
        root_(parse_json<json>(read_file(path, kMaxBytes), where_)),
        lacks_(lacks) {
    if (!root_.is_object()) fail("{}: {}, expected an object", where_, shown(root_));
  }

  bool number(const char* name, double& out) {
    const json* value = find(name);
    if (value == nullptr) return false;
    if (!value->is_number()) refuse(name, *value, "a number");
    out = value->get<double>();
    return true;
  }
  void boolean(const char* name, bool& out) {
    const json* value = find(name);
    if (value == nullptr) return;
    if (!value->is_boolean()) refuse(name, *value, "true or false");
    out = value->get<bool>();
  }
  std::vector<double> numbers(const char* name) {
    std::vector<double> out;
    const json* value = find(name);
    if (value == nullptr) return out;
    if (!value->is_array()) refuse(name, *value, "a list of numbers");
    for (const json& item : *value) {
      if (!item.is_number()) refuse(name, *value, "a list of numbers");
      out.push_back(item.get<double>());
    }
    return out;
  }
  std::vector<int32_t> tokens(const char* name, int64_t vocabulary) {
    std::vector<int32_t> out;
    for (const double token : numbers(name)) {
      if (!(token >= 0 && token < static_cast<double>(vocabulary)) ||
          token != static_cast<double>(static_cast<int32_t>(token))) {
        fail("{}: {} holds {}, expected tokens from 0 to {}", where_, name, token, vocabulary - 1);
      }
      out.push_back(static_cast<int32_t>(token));
    }
    return out;
  }
  const std::string& where() const { return where_; }

 private:
  static constexpr uint64_t kMaxBytes = 1 << 24;

  const json* find(const char* name) {
    const auto at = root_.find(name);
    if (at != root_.end()) return &*at;
    lacks_.push_back(fmt::format("{} in golden.json", name));
    return nullptr;
  }
  [[noreturn]] void refuse(const char* name, const json& value, const char* expected) const {
    fail("{}: {} is {}, expected {}", where_, name, shown(value), expected);
  }

  std::string where_;
  json root_;
  std::vector<std::string>& lacks_;
};

void forget(GoldenFolder& folder, std::string_view prefix) {
  std::erase_if(folder.golden.numbers,
                [&](const auto& item) { return item.first.starts_with(prefix); });
}

void read_json(GoldenFolder& folder) {
  const model::ModelConfig& c = folder.config.model;
  Fields fields(folder.path / "golden.json", folder.lacks);
  Values& numbers = folder.golden.numbers;
  const std::vector<double> loss = fields.numbers("loss");
  if (std::ssize(loss) > c.num_nextn_predict_layers + 1) {
    fail("{}: loss has {} numbers, expected at most {}: one a depth", fields.where(), loss.size(),
         c.num_nextn_predict_layers + 1);
  }
  for (size_t k = 0; k < loss.size(); ++k) numbers[fmt::format("loss.{}", k)] = {loss[k]};
  double number = 0;
  if (fields.number("balance", number)) numbers["balance"] = {number};
  if (fields.number("total", number)) numbers["total"] = {number};
  fields.boolean("mask_documents", folder.batch.mask_documents);
  folder.prompt = fields.tokens("prompt", c.vocab_size);
  folder.greedy = fields.tokens("greedy", c.vocab_size);
  if (folder.prompt.empty()) folder.greedy.clear();
  if (std::ssize(folder.prompt) + std::ssize(folder.greedy) > c.max_position_embeddings) {
    fail("{}: prompt and greedy have {} tokens, expected at most {}", fields.where(),
         folder.prompt.size() + folder.greedy.size(), c.max_position_embeddings);
  }
  // What weighs the parts of the total, without which it and its gradients mean nothing.
  const bool alpha = fields.number("alpha", folder.batch.alpha);
  const bool lambda = fields.number("lambda", folder.batch.lambda);
  if (!alpha || (!lambda && c.num_nextn_predict_layers > 0)) {
    forget(folder, "grad.");
    forget(folder, "total");
  }
  if (fields.number("gamma", folder.batch.gamma)) return;
  std::erase_if(numbers, [](const auto& item) { return item.first.ends_with(".bias_after"); });
}

void note_what_is_missing(GoldenFolder& folder) {
  std::map<std::string, int> missing;  // by kind
  for (const auto& [name, dtype, shape, layer] :
       golden_tensors(folder.config.model, folder.batch)) {
    const bool experts = name.ends_with(".experts"), counts = name.ends_with(".counts");
    const bool there = experts  ? folder.golden.experts.contains(layer)
                       : counts ? folder.golden.counts.contains(layer)
                                : folder.has(name);
    if (there) continue;
    std::string kind = name.substr(0, name.find('.'));
    if (kind == "route") kind = "route.*" + name.substr(name.rfind('.'));
    ++missing[kind];
  }
  for (const auto& [kind, count] : missing) {
    folder.lacks.push_back(count == 1 ? kind : fmt::format("{} ({} tensors)", kind, count));
  }
}

// Code times scale, exactly: FP32 would round the product.
std::vector<double> decode_blocks(const Tensor& codes, const Tensor& scale, TileShape tile) {
  const auto* code = static_cast<const uint8_t*>(codes.raw());
  std::vector<double> out;
  for (int64_t r = 0; r < codes.dim(0); ++r) {
    const float* scales = scale[r / tile.rows].data<float>();
    for (int64_t i = 0; i < codes.dim(1); ++i) {
      out.push_back(static_cast<double>(e4m3_decode(*code++)) *
                    static_cast<double>(scales[i / tile.cols]));
    }
  }
  return out;
}

std::vector<double> read_weight(const checkpoint::CheckpointFolder& files, const std::string& name,
                                const std::vector<int64_t>& dims, const model::ModelConfig& c) {
  const Shape shape{std::span<const int64_t>(dims)};
  const Tensor tensor = files.tensor(name);
  const auto where = [&] { return files.file_of(name).path().string(); };
  if (tensor.shape() != shape) {
    fail("{}: {}: shape {}, expected {} by config.json", where(), name, to_string(tensor.shape()),
         to_string(shape));
  }
  if (tensor.dtype() == DType::kE4M3) {
    if (!c.quantization || shape.rank() != 2) {
      fail("{}: {}: F8_E4M3, for which config.json has no quantization_config", where(), name);
    }
    const TileShape tile{c.quantization->rows, c.quantization->cols};
    return decode_blocks(
        tensor, files.tensor(checkpoint::scale_name(name), DType::kF32, scale_shape(shape, tile)),
        tile);
  }
  if (tensor.dtype() == DType::kF32) {
    const auto numbers = tensor.span<float>();
    return {numbers.begin(), numbers.end()};
  }
  if (tensor.dtype() != DType::kBF16) {
    fail("{}: {}: dtype {}, expected BF16, F32 or F8_E4M3", where(), name, name_of(tensor.dtype()));
  }
  std::vector<double> out;
  for (const bf16 x : tensor.span<bf16>())
    out.push_back(static_cast<double>(static_cast<float>(x)));
  return out;
}

}  // namespace

std::vector<GoldenTensor> golden_tensors(const model::ModelConfig& c, const ReferenceBatch& batch) {
  std::vector<GoldenTensor> out;
  const int64_t B = batch.sequences, E = c.n_routed_experts, K = c.num_experts_per_tok;
  out.push_back({"hidden", DType::kF32, {B, batch.positions, c.hidden_size}});
  for (int64_t k = 0; k <= c.num_nextn_predict_layers; ++k) {
    out.push_back(
        {fmt::format("logits.{}", k), DType::kF32, {B, batch.positions - k, c.vocab_size}});
  }
  for (int64_t n = 0; n < c.layers(); ++n) {
    const int64_t S = batch.positions - depth_of(c, n);
    out.push_back({fmt::format("latent.{}", n), DType::kF32, {B, S, c.latent_width()}, n});
    if (c.is_dense(n)) continue;
    const std::string route = fmt::format("route.{}.", n);
    out.push_back({route + "experts", DType::kI32, {B, S, K}, n});
    out.push_back({route + "weights", DType::kF32, {B, S, K}, n});
    out.push_back({route + "counts", DType::kI32, {E}, n});
    if (c.topk_method == ops::TopkMethod::kNoauxTc) {
      out.push_back({route + "bias_after", DType::kF32, {E}, n});
    }
  }
  for (const auto& [name, shape] : parameter_shapes(c)) {
    if (!is_router_bias(name)) out.push_back({"grad." + name, DType::kF32, shape});
  }
  return out;
}

bool GoldenFolder::has_gradients() const {
  const auto first = golden.numbers.lower_bound("grad.");
  return first != golden.numbers.end() && first->first.starts_with("grad.");
}

GoldenFolder read_golden_folder(const fs::path& path) {
  GoldenFolder folder;
  folder.path = path;
  if (!fs::is_directory(path)) fail("{}: no such folder", path.string());
  if (!fs::exists(path / "config.json")) {
    fail("{}: holds no config.json, expected a folder that `minke verify --write` made",
         path.string());
  }
  folder.config = checkpoint::read_config(path / "config.json");
  folder.files = std::make_unique<checkpoint::CheckpointFolder>(path);
  const SafetensorsFile file(path / "golden.safetensors");
  read_batch(folder, file);
  read_results(folder, file);
  read_json(folder);
  note_what_is_missing(folder);
  return folder;
}

Values read_weights(const checkpoint::CheckpointFolder& files, const model::ModelConfig& config) {
  Values out;
  for (const auto& [name, shape] : parameter_shapes(config)) {
    if (!files.contains(name))
      fail("{}: {} is missing from the checkpoint", files.path().string(), name);
    out[name] = read_weight(files, name, shape, config);
  }
  return out;
}

}  // namespace minke::study
