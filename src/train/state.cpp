#include "train/state.h"

#include <cstring>

#include "base/log.h"
#include "checkpoint/checksums.h"
#include "checkpoint/json.h"
#include "checkpoint/model_files.h"
#include "model/cost.h"
#include "ops/elementwise.h"
#include "text/tokenizer.h"

namespace minke::train {
namespace {

constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kAveragesFile = "ema.safetensors";

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
      visit("master." + piece.name, piece.value);
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

// One file of what for_each(visit) calls visit(name, tensor) for.
template <typename ForEach>
void save_tensors(const fs::path& path, ForEach&& for_each) {
  std::map<std::string, Tensor> tensors;
  std::vector<checkpoint::TensorSpec> specs;
  for_each([&](const std::string& name, const Tensor& value) {
    specs.emplace_back(name, value.dtype(), value.shape());
    tensors[name] = value;
  });
  checkpoint::SafetensorsWriter writer(path, specs);
  for (const auto& spec : writer.order()) writer.write(tensors.at(spec.name));
  writer.finish();
}

void copy_tokenizer(const fs::path& from, const fs::path& to) {
  for (const std::string& name : text::tokenizer_file_names()) {
    if (fs::exists(from / name)) write_file_atomic(to / name, read_file(from / name));
  }
}

}  // namespace

void save_state(const fs::path& folder, model::Transformer& model,
                const checkpoint::HfConfig& config, Trainer& trainer, const RunIdentity& identity,
                const fs::path& tokenizer, const Carried& carried) {
  write_folder_atomic(folder, [&](const fs::path& into) {
    write_file_atomic(into / "config.json", checkpoint::config_text(config));
    write_file_atomic(
        into / "generation_config.json",
        checkpoint::generation_config_text(carried.generation, config.model.bos_token_id,
                                           config.model.eos_token_id));
    copy_tokenizer(tokenizer, into);
    checkpoint::save_weights(into, model, carried.extras);
    save_tensors(into / kOptimizerFile,
                 [&](auto&& visit) { for_each_state(model, trainer, visit); });
    if (trainer.optimizer().averages().exist()) {
      save_tensors(into / kAveragesFile,
                   [&](auto&& visit) { for_each_average(model, trainer, visit); });
    }
    const Trainer::Position position = trainer.position();
    const nlohmann::ordered_json state = {{"step", position.done},
                                          {"seq", trainer.options().seq},
                                          {"rows_passed_over", position.rows_passed_over},
                                          {"losses", position.steps.loss},
                                          {"gradients", position.steps.gradient},
                                          {"data_hash", identity.data_hash},
                                          {"tokenizer_hash", identity.tokenizer_hash},
                                          {"isa", identity.isa}};
    write_file_atomic(into / kStateFile, state.dump(2) + "\n");
    checkpoint::write_checksums(into);
  });
}

void load_state(const fs::path& folder, model::Transformer& model, Trainer& trainer,
                const RunIdentity& identity) {
  const std::string where = (folder / kStateFile).string();
  const auto state = checkpoint::parse_json<nlohmann::json>(read_file(folder / kStateFile), where);
  const auto text = [&](const char* key) {
    if (!state.is_object() || !state.contains(key) || !state[key].is_string()) {
      fail("{}: no text \"{}\": the file is damaged", where, key);
    }
    return state[key].get<std::string>();
  };
  if (text("data_hash") != identity.data_hash) {
    fail("{}: the training text changed since this run began; resume needs the same text", where);
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
    state.at("rows_passed_over").get_to(position.rows_passed_over);
    state.at("losses").get_to(position.steps.loss);
    state.at("gradients").get_to(position.steps.gradient);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: the file is damaged: {}", where, error.what());
  }
  if (position.done < 0 || position.rows_passed_over < 0 ||
      position.steps.loss.size() != position.steps.gradient.size() ||
      position.steps.loss.size() > SpikeGuard::kSteps) {
    fail("{}: the file is damaged: no run was ever there", where);
  }

  const checkpoint::SafetensorsFile file(folder / kOptimizerFile);
  for_each_state(model, trainer, [&](const std::string& name, const Tensor& into) {
    const Tensor stored = file.tensor(name, into.dtype(), into.shape());
    if (name.starts_with("master.")) {
      // model.safetensors, loaded before, holds these rounded: both files must be of one save.
      const auto rounded = into.span<float>(), master = stored.span<float>();
      for (size_t i = 0; i < master.size(); ++i) {
        if (static_cast<float>(bf16(master[i])) != rounded[i]) {
          fail("{}: {} does not belong to model.safetensors beside it", file.path().string(), name);
        }
      }
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
  const auto state = checkpoint::parse_json<nlohmann::json>(read_file(folder / kStateFile), where);
  if (!state.is_object() || !state.contains("seq") || !state["seq"].is_number_integer() ||
      state["seq"] < 2) {
    fail("{}: no \"seq\": the file is damaged", where);
  }
  return state["seq"].get<int64_t>();
}

void keep_checkpoint(const fs::path& from, const fs::path& to) {
  write_folder_atomic(to, [&](const fs::path& into) {
    for (const auto& entry : fs::directory_iterator(from)) {
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
