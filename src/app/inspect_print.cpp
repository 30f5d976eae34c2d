#include <fmt/format.h>

#include "app/inspection.h"
#include "base/progress.h"
#include "checkpoint/hf_config.h"

namespace minke::app {
namespace {

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

}  // namespace

void print(const Inspection& i) {
  print_model(i);
  print_parameters(i.parameters);
  print_costs(i);
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

}  // namespace minke::app
