#include "train/state.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/json.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "checkpoint/checksums.h"
#include "checkpoint/quantize.h"
#include "model/cost.h"
#include "ops/elementwise.h"
#include "text/tokenizer.h"

namespace minke::train {
namespace {

constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kAveragesFile = "ema.safetensors";
constexpr std::string_view kMaster = "master.";

// Whether `rounded` is what a file of weights makes of `master`.
bool is_rounded(const model::Transformer& model, std::string_view name, const Tensor& master,
                const Tensor& rounded) {
  if (model.config().quantization && checkpoint::is_fp8_weight(name)) {
    const auto codes = checkpoint::quantized(master, model.fp8().scales);
    const OwnedTensor numbers(DType::kF32, master.shape());
    dequantize_e4m3(numbers, codes.codes, codes.scale, kBlock128x128);
    return std::ranges::equal(numbers.span<float>(), rounded.span<float>());
  }
  return std::ranges::equal(master.span<float>(), rounded.span<float>(), {},
                            [](float x) { return static_cast<float>(bf16(x)); });
}

// Calls visit("master.NAME" | "m.NAME" | "v.NAME", tensor) for every piece of every weight.
template <typename Visit>
void for_each_state(model::Transformer& model, Trainer& trainer, Visit&& visit) {
  size_t i = 0;
  model.for_each_weight([&](model::Weight& weight) {
    const auto& moments = trainer.optimizer().moments()[i++];
    int64_t at = 0;
    for (const model::Piece& piece : weight.pieces()) {
      const auto part = [&](const Tensor& whole) {
        const auto skip = static_cast<size_t>(at) * size_of(whole.dtype());
        return Tensor(static_cast<std::byte*>(whole.raw()) + skip, whole.dtype(), piece.shape);
      };
      visit(std::string(kMaster) + piece.name, piece.value);
      visit("m." + piece.name, part(moments.m));
      visit("v." + piece.name, part(moments.v));
      at += piece.shape.count();
    }
  });
}

// Calls visit(name, tensor) for every average, by its Hugging Face name.
template <typename Visit>
void for_each_average(model::Transformer& model, Trainer& trainer, Visit&& visit) {
  const Optimizer::Averages& averages = trainer.optimizer().averages();
  if (!averages.exist()) return;
  auto weights = averages.weights.begin(), biases = averages.biases.begin();
  model.for_each_weight([&](model::Weight& weight) {
    float* at = (weights++)->data<float>();
    for (const model::Piece& piece : weight.pieces()) {
      visit(piece.name, Tensor(at, piece.shape));
      at += piece.shape.count();
    }
  });
  model.for_each_router([&](int64_t, model::Router& router) {
    if (router.has_bias()) visit(router.bias_name, Tensor(*biases++));
  });
}

void copy_tokenizer(const fs::path& from, const fs::path& to) {
  for (const std::string& name : text::tokenizer_file_names()) {
    if (fs::exists(from / name)) write_file_atomic(to / name, read_file(from / name));
  }
}

}  // namespace

Snapshot::Snapshot(model::Transformer& model, const checkpoint::HfConfig& config, Trainer& trainer,
                   const RunIdentity& identity, fs::path tokenizer, const Carried& carried)
    : tokenizer_(std::move(tokenizer)), extras_(carried.extras) {
  tensors_[kModelFile] = checkpoint::weights_to_save(model);
  const auto add_to = [](std::vector<checkpoint::TensorToWrite>& file) {
    return [&file](const std::string& name, const Tensor& value) {
      file.push_back({name, value, value.dtype()});
    };
  };
  for_each_state(model, trainer, add_to(tensors_[kOptimizerFile]));
  if (trainer.optimizer().averages().exist()) {
    for_each_average(model, trainer, add_to(tensors_[kAveragesFile]));
  }
  const Trainer::Position position = trainer.position();
  const nlohmann::ordered_json state = {{"minke", version()},
                                        {"step", position.done},
                                        {"updates", position.updates},
                                        {"seq", trainer.options().seq},
                                        {"rows_passed_over", position.rows_passed_over},
                                        {"losses", position.steps.loss},
                                        {"gradients", position.steps.gradient},
                                        {"data_hash", identity.data_hash},
                                        {"tokenizer_hash", identity.tokenizer_hash},
                                        {"isa", identity.isa}};
  texts_ = {{"config.json", checkpoint::config_text(config)},
            {"generation_config.json",
             checkpoint::generation_config_text(carried.generation, config.model.bos_token_id,
                                                config.model.eos_token_id)},
            {kStateFile, state.dump(2) + "\n"}};
  constexpr uint64_t kAlign = 64;
  for (const auto& [file, tensors] : tensors_) {
    for (const checkpoint::TensorToWrite& tensor : tensors) {
      if (!places_.emplace(tensor.value.raw(), bytes_).second) continue;
      bytes_ += (tensor.value.bytes() + kAlign - 1) / kAlign * kAlign;
    }
  }
}

void Snapshot::keep() {
  kept_ = Buffer(bytes_);
  std::vector<std::pair<std::byte*, Tensor>> copies;
  std::set<const void*> copied;
  for (auto& [file, tensors] : tensors_) {
    for (checkpoint::TensorToWrite& tensor : tensors) {
      std::byte* to = kept_.data() + places_.at(tensor.value.raw());
      if (copied.insert(tensor.value.raw()).second) copies.emplace_back(to, tensor.value);
      tensor.value = Tensor(to, tensor.value.dtype(), tensor.value.shape());
    }
  }
  parallel_for(std::ssize(copies), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      std::memcpy(copies[i].first, copies[i].second.raw(), copies[i].second.bytes());
    }
  });
}

void Snapshot::write(const fs::path& folder) const {
  write_folder_atomic(folder, [&](const fs::path& into) {
    for (const auto& [name, text] : texts_) write_file_atomic(into / name, text);
    copy_tokenizer(tokenizer_, into);
    for (const auto& [name, tensors] : tensors_) {
      const bool carries = name == kModelFile;
      checkpoint::write_tensors(
          into / name, tensors,
          carries ? std::span(extras_) : std::span<const checkpoint::StoredTensor>());
    }
    checkpoint::write_checksums(into);
  });
}

void load_state(const fs::path& folder, model::Transformer& model, Trainer& trainer,
                const RunIdentity& identity) {
  const std::string where = (folder / kStateFile).string();
  const auto state = parse_json<nlohmann::json>(read_file(folder / kStateFile), where);
  if (!state.is_object()) fail("{}: expected an object: the file is damaged", where);
  for (const char* key :
       {"step", "rows_passed_over", "losses", "gradients", "data_hash", "tokenizer_hash", "isa"}) {
    if (state.contains(key)) continue;
    fail(
        "{}: says no \"{}\": another version of minke wrote it ({}), and this is {}, which cannot "
        "go "
        "on with the run; eval, generate and train --init read its model all the same",
        where, key, state.contains("minke") ? shown(state["minke"]) : "an earlier one", version());
  }
  const auto text = [&](const char* key) {
    if (!state[key].is_string()) fail("{}: {} is no text: the file is damaged", where, key);
    return state[key].get<std::string>();
  };
  if (text("data_hash") != identity.data_hash) {
    fail(
        "{}: the training text changed since this run began, or another version of minke held out "
        "another part of it; resume needs the same text",
        where);
  }
  if (text("tokenizer_hash") != identity.tokenizer_hash) {
    fail("{}: the tokenizer changed since this run began; resume needs the same one", where);
  }
  if (text("isa") != identity.isa) {
    log::warn("the run began on {} and goes on on {}: its bytes will differ from one that stayed",
              text("isa"), identity.isa);
  }
  Trainer::Position position;
  try {
    state.at("step").get_to(position.done);
    // What was saved before updates were counted had taken every step for one.
    position.updates = state.value("updates", position.done);
    state.at("rows_passed_over").get_to(position.rows_passed_over);
    state.at("losses").get_to(position.steps.loss);
    state.at("gradients").get_to(position.steps.gradient);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: the file is damaged: {}", where, error.what());
  }
  if (position.done < 0 || position.updates < 0 || position.updates > position.done ||
      position.rows_passed_over < 0 ||
      position.steps.loss.size() != position.steps.gradient.size() ||
      position.steps.loss.size() > SpikeGuard::kSteps) {
    fail("{}: the file is damaged: no run was ever there", where);
  }

  const checkpoint::SafetensorsFile file(folder / kOptimizerFile);
  for_each_state(model, trainer, [&](const std::string& name, const Tensor& into) {
    const Tensor stored = file.tensor(name, into.dtype(), into.shape());
    // model.safetensors, loaded before, holds masters rounded: both files must be of one save.
    if (name.starts_with(kMaster) &&
        !is_rounded(model, name.substr(kMaster.size()), stored, into)) {
      fail("{}: {} does not belong to model.safetensors beside it", file.path().string(), name);
    }
    std::memcpy(into.raw(), stored.raw(), into.bytes());
  });
  if (trainer.optimizer().averages().exist()) {
    const checkpoint::SafetensorsFile averages(folder / kAveragesFile);
    for_each_average(model, trainer, [&](const std::string& name, const Tensor& into) {
      ops::convert(into, averages.tensor(name, DType::kF32, into.shape()));
    });
  }
  trainer.resume_at(std::move(position));
  model.prepare(true);
}

std::optional<int64_t> trained_length(const fs::path& folder) {
  if (!fs::exists(folder / kStateFile)) return {};
  const std::string where = (folder / kStateFile).string();
  const auto state = parse_json<nlohmann::json>(read_file(folder / kStateFile), where);
  if (!state.is_object()) fail("{}: expected an object: the file is damaged", where);
  if (!state.contains("seq")) return {};
  if (!state["seq"].is_number_integer() || state["seq"] < 2) {
    fail("{}: \"seq\" is {}: the file is damaged", where, shown(state["seq"]));
  }
  return state["seq"].get<int64_t>();
}

void keep_checkpoint(const fs::path& from, const fs::path& to) {
  write_folder_atomic(to, [&](const fs::path& into) {
    for (const auto& entry : fs::directory_iterator(from)) {
      if (entry.path().filename().string().starts_with("packed-")) continue;  // a reader's cache
      std::error_code ec;
      fs::create_hard_link(entry.path(), into / entry.path().filename(), ec);
      // A file system without links: a copy is the same, and takes its place.
      if (ec) fs::copy_file(entry.path(), into / entry.path().filename());
    }
  });
}

uint64_t state_bytes_on_disk(const model::ModelConfig& config, const Options& options) {
  const model::ParameterCounts counts = model::count_parameters(config);
  const auto numbers = static_cast<uint64_t>(counts.total.total() + counts.mtp_total.total());
  const auto repeated = static_cast<uint64_t>(2 * config.num_nextn_predict_layers *
                                              config.vocab_size * config.hidden_size);
  const uint64_t each = 2 + 4 + 2 * size_of(moments_of(options)) + (options.ema > 0 ? 4 : 0);
  return numbers * each + repeated * 2 + (uint64_t{16} << 20);
}

}  // namespace minke::train
