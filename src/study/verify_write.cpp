#include "study/verify_write.h"

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/rng.h"
#include "checkpoint/model_files.h"

namespace minke::study {
namespace {

using checkpoint::SafetensorsWriter;
using checkpoint::TensorSpec;
using Json = nlohmann::ordered_json;

// Of the total loss, as the oracle weighs them.
constexpr double kLambda = 0.3, kAlpha = 1e-2, kGamma = 1e-3;

Tensor to_tensor(const std::vector<double>& numbers, const std::vector<int64_t>& dims, DType dtype,
                 std::vector<OwnedTensor>& owned) {
  owned.emplace_back(dtype, Shape(std::span<const int64_t>(dims)));
  const Tensor& out = owned.back();
  MINKE_CHECK(out.count() == std::ssize(numbers));
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (dtype == DType::kBF16) {
      out.data<bf16>()[i] = bf16(static_cast<float>(numbers[i]));
    } else if (dtype == DType::kI32) {
      out.data<int32_t>()[i] = static_cast<int32_t>(numbers[i]);
    } else {
      out.data<float>()[i] = static_cast<float>(numbers[i]);
    }
  }
  return out;
}

// Named tensors on their way to a file.
class Tensors {
 public:
  void add(const std::string& name, const std::vector<double>& numbers,
           const std::vector<int64_t>& dims, DType dtype) {
    values_[name] = to_tensor(numbers, dims, dtype, owned_);
  }
  template <typename Integer>
  void add_integers(const std::string& name, const std::vector<Integer>& numbers,
                    const std::vector<int64_t>& dims) {
    add(name, {numbers.begin(), numbers.end()}, dims, DType::kI32);
  }
  void repeat(const std::string& name, const std::string& original) {
    values_[name] = values_.at(original);
  }
  void write(const fs::path& path) const {
    std::vector<TensorSpec> specs;
    for (const auto& [name, value] : values_) {
      specs.emplace_back(name, value.dtype(), value.shape());
    }
    SafetensorsWriter writer(path, std::move(specs));
    for (const TensorSpec& spec : writer.order()) writer.write(values_.at(spec.name));
    writer.finish();
  }

 private:
  std::vector<OwnedTensor> owned_;
  std::map<std::string, Tensor> values_;
};

void write_random_model(const fs::path& folder, const model::ModelConfig& c, uint64_t seed) {
  Tensors tensors;
  const Values weights = random_weights(c, seed);
  for (const auto& [name, dims] : parameter_shapes(c)) {
    tensors.add(name, weights.at(name), dims, is_router_bias(name) ? DType::kF32 : DType::kBF16);
  }
  // MTP layers repeat embedding and head, as released files do.
  for (int64_t n = c.num_hidden_layers; n < c.layers(); ++n) {
    const std::string prefix = fmt::format("model.layers.{}.", n);
    tensors.repeat(prefix + "embed_tokens.weight", "model.embed_tokens.weight");
    tensors.repeat(prefix + "shared_head.head.weight", "lm_head.weight");
  }
  tensors.write(folder / "model.safetensors");
}

// The tensors of a checkpoint, shards or not, as they are.
void copy_model(const fs::path& folder, const checkpoint::CheckpointFolder& files) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, file] : files.tensors()) specs.push_back(file->stored(name));
  SafetensorsWriter writer(folder / "model.safetensors", std::move(specs));
  for (const TensorSpec& spec : writer.order()) {
    writer.write_bytes(files.stored(spec.name).span());
  }
  writer.finish();
}

ReferenceBatch random_batch(const model::ModelConfig& c, const WriteOptions& options) {
  ReferenceBatch batch;
  batch.sequences = options.sequences;
  batch.positions = options.positions;
  batch.mask_documents = options.documents;
  batch.lambda = kLambda;
  batch.alpha = kAlpha;
  batch.gamma = kGamma;
  Rng tokens(stream_key(options.seed, 0, "tokens")), documents(stream_key(options.seed, 0, "doc"));
  for (int64_t b = 0; b < batch.sequences; ++b) {
    int32_t document = 0;
    for (int64_t i = 0; i < batch.positions; ++i) {
      batch.tokens.push_back(static_cast<int32_t>(tokens.below(c.vocab_size)));
      // About three documents a sequence.
      if (options.documents && i > 0 && documents.below(batch.positions) < 2) ++document;
      batch.documents.push_back(document);
    }
  }
  return batch;
}

void check_sizes(const model::ModelConfig& c, const WriteOptions& options) {
  const int64_t least = c.num_nextn_predict_layers + 2;
  if (options.sequences < 1 || options.positions < least ||
      options.positions > c.max_position_embeddings) {
    fail("{} sequences of {} positions, expected at least 1 of {} to {} for this model",
         options.sequences, options.positions, least, c.max_position_embeddings);
  }
  if (options.text < 0 || options.prompt < 1 || options.prompt > options.positions ||
      options.prompt + options.text > c.max_position_embeddings) {
    fail(
        "a text of {} tokens after a prompt of {}, expected a prompt of 1 to {} tokens, and at "
        "most "
        "{} tokens in all",
        options.text, options.prompt, options.positions, c.max_position_embeddings);
  }
}

}  // namespace

Values random_weights(const model::ModelConfig& config, uint64_t seed) {
  Values out;
  for (const auto& [name, dims] : parameter_shapes(config)) {
    const bool norm = dims.size() == 1, bias = is_router_bias(name);
    const double spread = bias   ? 0.05
                          : norm ? 0.1
                          : name.ends_with("embed_tokens.weight")
                              ? 0.5
                              : 0.6 / std::sqrt(static_cast<double>(dims.back()));
    int64_t count = 1;
    for (const int64_t n : dims) count *= n;
    Rng rng(stream_key(seed, 0, name));
    std::vector<double>& numbers = out[name];
    for (int64_t i = 0; i < count; ++i) {
      const auto x = static_cast<float>((norm && !bias ? 1 : 0) + spread * rng.normal());
      numbers.push_back(static_cast<double>(bias ? x : static_cast<float>(bf16(x))));
    }
  }
  return out;
}

void write_golden(const fs::path& folder, const model::ModelConfig& c, const ReferenceBatch& batch,
                  const ReferenceResult& result, const std::vector<int32_t>& prompt,
                  const std::vector<int32_t>& greedy) {
  Tensors tensors;
  tensors.add_integers("tokens", batch.tokens, {batch.sequences, batch.positions});
  tensors.add_integers("documents", batch.documents, {batch.sequences, batch.positions});
  for (const GoldenTensor& expected : golden_tensors(c, batch)) {
    const std::string& name = expected.name;
    if (name.ends_with(".experts")) {
      tensors.add_integers(name, result.experts.at(expected.layer), expected.shape);
    } else if (name.ends_with(".counts")) {
      tensors.add_integers(name, result.counts.at(expected.layer), expected.shape);
    } else if (result.numbers.contains(name)) {
      tensors.add(name, result.numbers.at(name), expected.shape, DType::kF32);
    }
  }
  tensors.write(folder / "golden.safetensors");

  Json json;
  json["loss"] = Json::array();
  for (int64_t k = 0; k <= c.num_nextn_predict_layers; ++k) {
    json["loss"].push_back(result.numbers.at(fmt::format("loss.{}", k)).at(0));
  }
  json["balance"] = result.numbers.at("balance").at(0);
  json["total"] = result.numbers.at("total").at(0);
  json["gamma"] = batch.gamma;
  json["lambda"] = batch.lambda;
  json["alpha"] = batch.alpha;
  json["mask_documents"] = batch.mask_documents;
  json["prompt"] = prompt;
  json["greedy"] = greedy;
  write_file_atomic(folder / "golden.json", json.dump(1) + "\n");
}

void write_golden_folder(const fs::path& folder, const WriteOptions& options) {
  if (fs::exists(folder) && !(fs::is_directory(folder) && fs::is_empty(folder))) {
    fail("{}: is there already, expected a folder to be made: remove it, or name another",
         folder.string());
  }
  const bool is_folder = fs::is_directory(options.model);
  const fs::path source = is_folder ? checkpoint::model_folder(options.model) : options.model;
  const checkpoint::HfConfig config =
      checkpoint::read_config(is_folder ? source / "config.json" : source);
  const model::ModelConfig& c = config.model;
  check_sizes(c, options);
  check_reference_fits(c, 1);
  write_folder_atomic(folder, [&](const fs::path& to) {
    write_file_atomic(to / "config.json", checkpoint::config_text(config));
    if (is_folder && checkpoint::has_weights(source)) {
      copy_model(to, checkpoint::CheckpointFolder(source));
    } else {
      write_random_model(to, c, options.seed);
    }
    const ReferenceModel model(c, read_weights(checkpoint::CheckpointFolder(to), c));
    const ReferenceBatch batch = random_batch(c, options);
    const std::vector<int32_t> prompt(batch.tokens.begin(), batch.tokens.begin() + options.prompt);
    write_golden(to, c, batch, model.run(batch, {}), prompt,
                 model.continue_greedily(prompt, options.text));
  });
}

}  // namespace minke::study
