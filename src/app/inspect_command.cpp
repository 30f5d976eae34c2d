#include "app/inspect_command.h"

#include <fmt/format.h>

#include <array>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/choices.h"
#include "app/inspect_activations.h"
#include "app/inspect_train.h"
#include "app/text_options.h"
#include "base/error.h"
#include "base/progress.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"
#include "checkpoint/safetensors.h"
#include "model/cost.h"

namespace minke::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kCacheNumber = 2;  // a cache is counted in BF16
// The length that training's FLOPs are told for, where the model reads as many: V3's own.
constexpr int64_t kTrainingLength = 4096;

struct Dtype {
  int64_t tensors = 0, numbers = 0;
  uint64_t bytes = 0;
};

// The tensors of a folder: what lies in which file, and in which type.
struct Files {
  std::map<std::string, Dtype> by_dtype;
  std::map<std::string, Dtype> by_file;
  Dtype all;
  // Parameters as model/cost.h counts them: no scales of blocks, no repeated embedding and head.
  int64_t parameters = 0;
  std::vector<checkpoint::TensorSpec> extras;  // what the architecture does not name
};

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

// All that is printed, in either form.
struct Inspection {
  std::string path;
  model::ModelConfig config;
  model::ParameterCounts parameters;
  model::CacheBytes cache;
  int64_t train_positions = 0;
  model::TrainFlops train;
  std::optional<Files> files;
};

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

struct Component {
  const char* name;
  const char* key;
  int64_t model::Parameters::*count;
};
constexpr std::array<Component, 9> kComponents = {{
    {"embedding", "embedding", &model::Parameters::embedding},
    {"attention", "attention", &model::Parameters::attention},
    {"dense feed-forward", "dense", &model::Parameters::dense},
    {"router", "router", &model::Parameters::router},
    {"shared experts", "shared_experts", &model::Parameters::shared},
    {"routed experts", "routed_experts", &model::Parameters::routed},
    {"norms", "norms", &model::Parameters::norms},
    {"MTP projection", "mtp_projection", &model::Parameters::projection},
    {"head", "head", &model::Parameters::head},
}};

std::string plural(int64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

void print_fact(std::string_view name, std::string_view what) {
  fmt::print("  {:<14} {}\n", name, what);
}

std::string layers_text(const model::ModelConfig& c) {
  const int64_t dense = c.first_k_dense_replace;
  std::string out = fmt::format("{} ({} dense, {} of experts)", c.num_hidden_layers, dense,
                                c.num_hidden_layers - dense);
  const int64_t mtp = c.num_nextn_predict_layers;
  if (mtp > 0) out += fmt::format(", and {} of multi-token prediction", mtp);
  return out;
}

std::string router_text(const model::ModelConfig& c) {
  std::string out = fmt::format("{}, {}", checkpoint::name_of(c.scoring_func),
                                checkpoint::name_of(c.topk_method));
  const ops::Routing how = c.routing();
  if (how.groups > 1) {
    out += fmt::format(", {} of {} groups", how.chosen_groups, how.groups);
  }
  if (c.norm_topk_prob) out += ", weights normalised";
  if (c.routed_scaling_factor != 1) out += fmt::format(", times {}", c.routed_scaling_factor);
  return out;
}

std::string rope_text(const model::ModelConfig& c) {
  std::string out = fmt::format("theta {}", c.rope_theta);
  if (!c.rope_scaling) return out;
  const model::YarnScaling& yarn = *c.rope_scaling;
  out += fmt::format(", YaRN {}x from {} (beta {} to {}", yarn.factor,
                     yarn.original_max_position_embeddings, yarn.beta_fast, yarn.beta_slow);
  if (yarn.mscale) out += fmt::format(", mscale {}", *yarn.mscale);
  return out + fmt::format(", mscale_all_dim {})", yarn.mscale_all_dim);
}

void print_model(const Inspection& i) {
  const model::ModelConfig& c = i.config;
  fmt::print("{}\n", i.path);
  print_fact(
      "model",
      fmt::format("{}, {} parameters, {} active a token without the embedding", c.model_type,
                  format_count(static_cast<double>(i.parameters.total.total())),
                  format_count(static_cast<double>(i.parameters.active.without_embedding()))));
  print_fact("layers", layers_text(c));
  print_fact("widths", fmt::format("hidden {}, vocabulary {}, context {}", c.hidden_size,
                                   c.vocab_size, c.max_position_embeddings));
  print_fact("attention",
             fmt::format("{}, keys {} + {} roped, values {}; latent {}{}",
                         plural(c.num_attention_heads, "head"), c.qk_nope_head_dim,
                         c.qk_rope_head_dim, c.v_head_dim, c.kv_lora_rank,
                         c.q_lora_rank > 0 ? fmt::format(", of queries {}", c.q_lora_rank) : ""));
  if (c.first_k_dense_replace > 0) {
    print_fact("dense", fmt::format("{} wide", c.intermediate_size));
  }
  print_fact("experts",
             fmt::format("{} of {} chosen, {} shared, each {} wide", c.num_experts_per_tok,
                         c.n_routed_experts, c.n_shared_experts, c.moe_intermediate_size));
  print_fact("router", router_text(c));
  print_fact("rope", rope_text(c));
  if (c.quantization) {
    const model::Fp8Blocks& q = *c.quantization;
    std::string weights = fmt::format("E4M3 in blocks of {} x {}{}", q.rows, q.cols,
                                      q.ue8m0 ? ", scales powers of two" : "");
    if (q.expert_bits > 0) weights += fmt::format("; experts int{}", q.expert_bits);
    if (q.head_bits > 0) weights += fmt::format("; head int{}", q.head_bits);
    print_fact("weights", weights);
  }
}

void print_parameters(const model::ParameterCounts& counts) {
  const auto row = [](std::string_view name, int64_t total, int64_t active) {
    fmt::print("  {:<28} {:>8} {:>10}\n", name, format_count(static_cast<double>(total)),
               format_count(static_cast<double>(active)));
  };
  fmt::print("\n{:<30} {:>8} {:>10}\n", "parameters", "total", "active");
  const model::Parameters &total = counts.total, &active = counts.active;
  for (const Component& component : kComponents) {
    if (total.*component.count == 0) continue;
    row(component.name, total.*component.count, active.*component.count);
  }
  row("in all", total.total(), active.total());
  row("without embedding", total.without_embedding(), active.without_embedding());
  row("without embedding and head", total.without_embedding_and_head(),
      active.without_embedding_and_head());
  if (counts.mtp_total.total() > 0) {
    row("MTP, besides", counts.mtp_total.total(), counts.mtp_active.total());
  }
}

std::string flops_text(double flops) {
  constexpr std::array kUnits = {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"};
  size_t unit = 0;
  for (; flops >= 999.5 && unit + 1 < kUnits.size(); ++unit) flops /= 1000;
  return fmt::format("{:.3g} {}", flops, kUnits[unit]);
}

void print_costs(const Inspection& i) {
  fmt::print("\n{:<30} {:>8} {:>10}\n", "cache of a token, BF16", "bytes", "x latent");
  const auto row = [&](const std::string& name, int64_t bytes) {
    const double times = static_cast<double>(bytes) / static_cast<double>(i.cache.latent);
    fmt::print("  {:<28} {:>8} {:>10.1f}\n", name, format_bytes(static_cast<double>(bytes)), times);
  };
  row("latent (MLA)", i.cache.latent);
  row(fmt::format("GQA, {}", plural(i.cache.gqa_heads, "key-value head")), i.cache.gqa);
  row(fmt::format("MHA, {}", plural(i.config.num_attention_heads, "head")), i.cache.mha);
  const int64_t context = i.config.max_position_embeddings;
  fmt::print("  {:<28} {:>8}\n", fmt::format("latent, {} tokens", context),
             format_bytes(static_cast<double>(i.cache.latent) * static_cast<double>(context)));
  fmt::print("\ntraining on a token, in sequences of {}: {}, {:.0f} % of it attention\n",
             i.train_positions, flops_text(i.train.total()),
             100 * i.train.attention / i.train.total());
}

void print_files(const Inspection& i) {
  const Files& files = *i.files;
  const auto row = [](const std::string& name, const Dtype& sum) {
    fmt::print("  {:<34} {:>9} {:>8} {:>9}\n", name, sum.tensors,
               format_count(static_cast<double>(sum.numbers)),
               format_bytes(static_cast<double>(sum.bytes)));
  };
  fmt::print("\n{:<36} {:>9} {:>8} {:>9}\n", "files", "tensors", "numbers", "size");
  constexpr size_t kShown = 12;
  size_t shown = 0;
  Dtype rest;
  for (const auto& [name, sum] : files.by_file) {
    if (++shown <= kShown || files.by_file.size() == kShown + 1) {
      row(name, sum);
      continue;
    }
    rest.tensors += sum.tensors;
    rest.numbers += sum.numbers;
    rest.bytes += sum.bytes;
  }
  if (rest.tensors > 0) row(fmt::format("and {} more", files.by_file.size() - kShown), rest);
  for (const auto& [name, sum] : files.by_dtype) row(name, sum);
  const int64_t expected = i.parameters.total.total() + i.parameters.mtp_total.total();
  if (files.parameters != expected) {
    fmt::print(
        "  the files hold {} parameters where config.json makes {}: some are missing, or "
        "of another model\n",
        files.parameters, expected);
  }
  if (files.extras.empty()) return;
  fmt::print("\nnot named by the architecture\n");
  for (const checkpoint::TensorSpec& tensor : files.extras) {
    fmt::print("  {} {} [{}]\n", tensor.name, tensor.dtype, fmt::join(tensor.shape, ", "));
  }
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

Json json_of(const Inspection& i) {
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

constexpr const char* kFooter =
    R"(Examples:
  minke inspect runs/first
  minke inspect config.json --json      one object with exact numbers
  minke inspect config.json --train --batch 4 --seq 512      the memory that training it takes
  minke inspect runs/first --activations a.safetensors --text "It is a truth" --select 'layers.*.input')";

struct Options {
  std::string path;
  model::Precision precision = model::Precision::kBF16;
  bool json = false, train = false;
  TrainShape shape;
  ActivationsRequest activations;
};

void run(const Options& options) {
  if (!options.activations.file.empty()) {
    write_activations(options.path, options.activations);
    return;
  }
  const Inspection inspection = inspect(options.path);
  if (options.json) {
    Json out = json_of(inspection);
    if (options.train) out["train_memory"] = train_memory_json(inspection.config, options.shape);
    fmt::print("{}\n", out.dump(2));
    return;
  }
  print_model(inspection);
  print_parameters(inspection.parameters);
  print_costs(inspection);
  if (options.train) print_train_memory(inspection.config, options.shape);
  if (inspection.files) print_files(inspection);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect", "What a model is, and what it costs: a config is enough");
  command->footer(kFooter);
  command->add_option("model", options->path, "A model's folder, a run's, or a config.json")
      ->required();
  CLI::Option* json =
      command->add_flag("--json", options->json, "As one JSON object, with exact numbers");
  CLI::Option* train = command->add_flag("--train", options->train,
                                         "Also the memory of a training step, at each --recompute");
  command->add_option("--batch", options->shape.sequences, "Sequences computed at once")
      ->check(CLI::Range(1, 1 << 20))
      ->needs(train)
      ->capture_default_str();
  command->add_option("--seq", options->shape.positions, "Tokens a sequence")
      ->check(CLI::Range(2, 1 << 20))
      ->needs(train)
      ->capture_default_str();
  ActivationsRequest& wanted = options->activations;
  CLI::Option* activations = command->add_option(
      "--activations", wanted.file, "Write what the model computes on --text here, as safetensors");
  CLI::Option* text = command->add_option("--text", wanted.text, "The text; -: standard input");
  activations->needs(text)->excludes(train)->excludes(json);
  text->needs(activations);
  command
      ->add_option("--select", wanted.select,
                   "Activations whose name fits, such as 'layers.3.*' or '*.router.scores'")
      ->needs(activations)
      ->capture_default_str();
  add_extra_option(*command, wanted.load.extra)->needs(activations);
  add_choice(*command, "--precision", options->precision, "What is computed in, with either");
  command->callback([options] {
    options->shape.precision = options->activations.precision = options->precision;
    run(*options);
  });
}

}  // namespace minke::app
