#include "checkpoint/gguf_export.h"

#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "checkpoint/stored_values.h"

namespace minke::checkpoint {
namespace {

using model::ModelConfig;

// llama.cpp's file types: what most tensors are.
uint32_t file_type(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return 0;
    case GgufType::kF16:
      return 1;
    case GgufType::kQ8:
      return 7;
    case GgufType::kBF16:
      return 32;
  }
  MINKE_CHECK(false);
}

std::string_view type_name(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return "F32";
    case GgufType::kF16:
      return "F16";
    case GgufType::kQ8:
      return "Q8_0";
    case GgufType::kBF16:
      return "BF16";
  }
  MINKE_CHECK(false);
}

// A tensor to write, and the tensors of the checkpoint that it is made of, one after the other.
struct Planned {
  GgufTensor tensor;
  std::vector<std::string> sources;
  Shape source_shape;
  // kv_b_proj is cut in two: of each head's rows the first for keys (transposed: queries are
  // multiplied with it), the others for values.
  enum class Cut { kNone, kKeys, kValues };
  Cut cut = Cut::kNone;
};

class Plan {
 public:
  Plan(const ModelConfig& config, GgufType type) : c_(config), type_(type) {
    const int64_t D = c_.hidden_size, V = c_.vocab_size;
    matrix("token_embd", "model.embed_tokens", V, D);
    vector("output_norm", "model.norm", D);
    matrix("output", "lm_head", V, D);
    for (int64_t n = 0; n < c_.layers(); ++n) layer(n);
  }

  std::vector<Planned> take() { return std::move(tensors_); }

 private:
  void add(std::string name, GgufType type, std::vector<int64_t> shape,
           std::vector<std::string> sources, Shape source_shape,
           Planned::Cut cut = Planned::Cut::kNone) {
    tensors_.push_back(
        {{std::move(name), type, std::move(shape)}, std::move(sources), source_shape, cut});
  }
  void matrix(const std::string& name, const std::string& source, int64_t rows, int64_t cols) {
    add(name + ".weight", type_, {rows, cols}, {source + ".weight"}, {rows, cols});
  }
  void vector(const std::string& name, const std::string& source, int64_t size) {
    add(name + ".weight", GgufType::kF32, {size}, {source + ".weight"}, {size});
  }

  void layer(int64_t n) {
    const std::string blk = fmt::format("blk.{}.", n), from = fmt::format("model.layers.{}.", n);
    attention(blk, from + "self_attn.");
    vector(blk + "attn_norm", from + "input_layernorm", c_.hidden_size);
    vector(blk + "ffn_norm", from + "post_attention_layernorm", c_.hidden_size);
    if (c_.is_dense(n)) {
      projections(blk + "ffn_", "", from + "mlp.", c_.intermediate_size);
    } else {
      experts(blk, from + "mlp.");
    }
    if (n >= c_.num_hidden_layers) next_token(blk + "nextn.", from);
  }

  void attention(const std::string& blk, const std::string& from) {
    const int64_t D = c_.hidden_size, H = c_.num_attention_heads, R = c_.kv_lora_rank;
    const int64_t nope = c_.qk_nope_head_dim, v = c_.v_head_dim;
    if (c_.q_lora_rank > 0) {
      matrix(blk + "attn_q_a", from + "q_a_proj", c_.q_lora_rank, D);
      vector(blk + "attn_q_a_norm", from + "q_a_layernorm", c_.q_lora_rank);
      matrix(blk + "attn_q_b", from + "q_b_proj", H * c_.qk_head_dim(), c_.q_lora_rank);
    } else {
      matrix(blk + "attn_q", from + "q_proj", H * c_.qk_head_dim(), D);
    }
    matrix(blk + "attn_kv_a_mqa", from + "kv_a_proj_with_mqa", c_.latent_width(), D);
    vector(blk + "attn_kv_a_norm", from + "kv_a_layernorm", R);
    const Shape kv_b = {H * (nope + v), R};
    add(blk + "attn_k_b.weight", type_, {H, R, nope}, {from + "kv_b_proj.weight"}, kv_b,
        Planned::Cut::kKeys);
    add(blk + "attn_v_b.weight", type_, {H, v, R}, {from + "kv_b_proj.weight"}, kv_b,
        Planned::Cut::kValues);
    matrix(blk + "attn_output", from + "o_proj", D, H * v);
  }

  void projections(const std::string& to, const std::string& suffix, const std::string& from,
                   int64_t width) {
    const int64_t D = c_.hidden_size;
    matrix(to + "gate" + suffix, from + "gate_proj", width, D);
    matrix(to + "up" + suffix, from + "up_proj", width, D);
    matrix(to + "down" + suffix, from + "down_proj", D, width);
  }

  void experts(const std::string& blk, const std::string& from) {
    const int64_t D = c_.hidden_size, E = c_.n_routed_experts, F = c_.moe_intermediate_size;
    add(blk + "ffn_gate_inp.weight", GgufType::kF32, {E, D}, {from + "gate.weight"}, {E, D});
    if (c_.topk_method == ops::TopkMethod::kNoauxTc) {
      add(blk + "exp_probs_b.bias", GgufType::kF32, {E}, {from + "gate.e_score_correction_bias"},
          {E});
    }
    for (const char* projection : {"gate", "up", "down"}) {
      const bool down = std::string_view(projection) == "down";
      const int64_t rows = down ? D : F, cols = down ? F : D;
      std::vector<std::string> sources;
      for (int64_t e = 0; e < E; ++e) {
        sources.push_back(fmt::format("{}experts.{}.{}_proj.weight", from, e, projection));
      }
      add(fmt::format("{}ffn_{}_exps.weight", blk, projection), type_, {E, rows, cols},
          std::move(sources), {rows, cols});
    }
    projections(blk + "ffn_", "_shexp", from + "shared_experts.",
                c_.n_shared_experts * c_.moe_intermediate_size);
  }

  // The layer's copies of embedding and head are the trunk's, and need not be in the checkpoint.
  void next_token(const std::string& blk, const std::string& from) {
    const int64_t D = c_.hidden_size, V = c_.vocab_size;
    matrix(blk + "eh_proj", from + "eh_proj", D, 2 * D);
    vector(blk + "enorm", from + "enorm", D);
    vector(blk + "hnorm", from + "hnorm", D);
    vector(blk + "shared_head_norm", from + "shared_head.norm", D);
    matrix(blk + "embed_tokens", "model.embed_tokens", V, D);
    matrix(blk + "shared_head_head", "lm_head", V, D);
  }

  const ModelConfig& c_;
  GgufType type_;
  std::vector<Planned> tensors_;
};

void add_yarn(GgufMetadata& out, const model::YarnScaling& yarn) {
  const auto key = [](const char* name) { return std::string("deepseek2.rope.scaling.") + name; };
  out.add(key("type"), "yarn");
  out.add(key("factor"), static_cast<float>(yarn.factor));
  out.add(key("original_context_length"),
          static_cast<uint32_t>(yarn.original_max_position_embeddings));
  out.add(key("yarn_beta_fast"), static_cast<float>(yarn.beta_fast));
  out.add(key("yarn_beta_slow"), static_cast<float>(yarn.beta_slow));
  if (yarn.mscale_all_dim != 0) {
    out.add(key("yarn_log_multiplier"), static_cast<float>(0.1 * yarn.mscale_all_dim));
  }
}

void add_model(GgufMetadata& out, const ModelConfig& c) {
  const auto key = [](const char* name) { return std::string("deepseek2.") + name; };
  const auto whole = [&](const char* name, int64_t value) {
    out.add(key(name), static_cast<uint32_t>(value));
  };
  whole("block_count", c.layers());
  whole("context_length", c.max_position_embeddings);
  whole("embedding_length", c.hidden_size);
  whole("feed_forward_length", c.intermediate_size);
  whole("vocab_size", c.vocab_size);
  whole("leading_dense_block_count", c.first_k_dense_replace);
  whole("nextn_predict_layers", c.num_nextn_predict_layers);
  whole("attention.head_count", c.num_attention_heads);
  whole("attention.head_count_kv", 1);  // absorbed: all heads read one latent
  out.add(key("attention.layer_norm_rms_epsilon"), static_cast<float>(c.rms_norm_eps));
  if (c.q_lora_rank > 0) whole("attention.q_lora_rank", c.q_lora_rank);
  whole("attention.kv_lora_rank", c.kv_lora_rank);
  whole("attention.key_length", c.latent_width());
  whole("attention.value_length", c.kv_lora_rank);
  whole("attention.key_length_mla", c.qk_head_dim());
  whole("attention.value_length_mla", c.v_head_dim);
  whole("expert_count", c.n_routed_experts);
  whole("expert_used_count", c.num_experts_per_tok);
  whole("expert_shared_count", c.n_shared_experts);
  whole("expert_feed_forward_length", c.moe_intermediate_size);
  if (c.topk_method == ops::TopkMethod::kNoauxTc && c.n_group > 1) {
    whole("expert_group_count", c.n_group);
    whole("expert_group_used_count", c.topk_group);
  }
  out.add(key("expert_weights_scale"), static_cast<float>(c.routed_scaling_factor));
  out.add(key("expert_weights_norm"), c.norm_topk_prob);
  whole("expert_gating_func", c.scoring_func == ops::Scoring::kSoftmax ? 1 : 2);
  whole("rope.dimension_count", c.qk_rope_head_dim);
  out.add(key("rope.freq_base"), static_cast<float>(c.rope_theta));
  if (c.rope_scaling) add_yarn(out, *c.rope_scaling);
}

void add_vocabulary(GgufMetadata& out, const GgufVocabulary& v, int64_t rows) {
  const auto key = [](const char* name) { return std::string("tokenizer.ggml.") + name; };
  std::vector<std::string> tokens = v.tokens;
  std::vector<int32_t> kinds = v.kinds;
  for (size_t id = 0; id < static_cast<size_t>(rows); ++id) {
    if (id >= tokens.size()) {
      tokens.emplace_back();
      kinds.push_back(GgufVocabulary::kUnused);
    }
    if (tokens[id].empty()) tokens[id] = fmt::format("[PAD{}]", id);
  }
  out.add(key("model"), "gpt2");
  out.add(key("pre"), v.pre);
  out.add(key("tokens"), tokens);
  out.add(key("token_type"), kinds);
  out.add(key("merges"), v.merges);
  const auto token = [&](const char* name, int32_t id) {
    if (id >= 0) out.add(key(name), static_cast<uint32_t>(id));
  };
  token("bos_token_id", v.bos);
  token("eos_token_id", v.eos);
  token("eot_token_id", v.end_of_turn);
  token("padding_token_id", v.padding);
  out.add(key("add_bos_token"), v.add_bos);
  out.add(key("add_eos_token"), false);
  if (!v.chat_template.empty()) out.add("tokenizer.chat_template", v.chat_template);
}

// Keys or values of kv_b_proj [H * (nope + v), R].
std::vector<float> cut(const std::vector<float>& kv_b, const ModelConfig& c, Planned::Cut what) {
  const auto H = static_cast<size_t>(c.num_attention_heads),
             R = static_cast<size_t>(c.kv_lora_rank),
             nope = static_cast<size_t>(c.qk_nope_head_dim), v = static_cast<size_t>(c.v_head_dim);
  std::vector<float> out;
  for (size_t h = 0; h < H; ++h) {
    const float* head = kv_b.data() + h * (nope + v) * R;
    if (what == Planned::Cut::kValues) {
      out.insert(out.end(), head + nope * R, head + (nope + v) * R);
      continue;
    }
    for (size_t r = 0; r < R; ++r) {
      for (size_t n = 0; n < nope; ++n) out.push_back(head[n * R + r]);
    }
  }
  return out;
}

void write_values(GgufWriter& writer, const std::vector<float>& values, GgufType type) {
  constexpr int64_t kChunk = 1 << 20;  // whole blocks
  std::vector<std::string> encoded((values.size() + kChunk - 1) / kChunk);
  parallel_for(std::ssize(values), kChunk, [&](int64_t begin, int64_t end) {
    append_gguf(
        encoded[static_cast<size_t>(begin / kChunk)],
        std::span(values).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
        type);
  });
  for (const std::string& bytes : encoded) writer.write(bytes);
}

}  // namespace

void check_gguf_export(const ModelConfig& c, GgufType type) {
  const bool lite = c.num_hidden_layers == 26 || c.num_hidden_layers == 27 ||
                    (c.num_hidden_layers == 48 && c.vocab_size == 128256);
  if (c.q_lora_rank == 0 && !lite) {
    fail(
        "num_hidden_layers is {} and q_lora_rank null: llama.cpp reads a model without q_lora_rank "
        "only with 26 or 27 layers (or 48, of a vocabulary of 128256)",
        c.num_hidden_layers);
  }
  if (c.q_lora_rank != 0 && lite) {
    fail(
        "num_hidden_layers is {} and q_lora_rank {}: llama.cpp takes a model of so many layers for "
        "one without q_lora_rank",
        c.num_hidden_layers, c.q_lora_rank);
  }
  if (c.topk_method == ops::TopkMethod::kGroupLimitedGreedy && c.n_group > 1) {
    fail(
        "topk_method is group_limited_greedy: llama.cpp chooses groups by the sum of their two "
        "best "
        "experts, and not by the best one");
  }
  if (c.n_shared_experts == 0 && c.first_k_dense_replace < c.layers()) {
    fail("n_shared_experts is 0: llama.cpp expects shared experts in every layer of experts");
  }
  if (c.rope_scaling) {
    // It takes mscale for mscale_all_dim's value, or 1 where that is absent.
    const double assumed = c.rope_scaling->mscale_all_dim == 0 ? 1 : c.rope_scaling->mscale_all_dim;
    if (c.rope_scaling->mscale.value_or(1) != assumed) {
      fail("rope_scaling.mscale is {} and mscale_all_dim {}: llama.cpp assumes mscale {}",
           c.rope_scaling->mscale.value_or(1), c.rope_scaling->mscale_all_dim, assumed);
    }
  }
  const std::vector<Planned> plan = Plan(c, type).take();
  for (const Planned& planned : plan) {
    const GgufTensor& tensor = planned.tensor;
    if (tensor.type == GgufType::kQ8 && tensor.shape.back() % kQ8Block != 0) {
      fail("{}: rows of {}, which are no whole blocks of {}: export as bf16 or f16", tensor.name,
           tensor.shape.back(), kQ8Block);
    }
  }
}

void export_gguf(const fs::path& path, const CheckpointFolder& files, const ModelConfig& config,
                 const GgufVocabulary& vocabulary, GgufType type, Extra extra,
                 const std::function<void(size_t, size_t)>& on_tensor) {
  check_gguf_export(config, type);
  if (config.rms_norm_eps != model::kLatentNormEps) {
    log::warn(
        "rms_norm_eps is {:g}: llama.cpp takes it for the norms of the latents too, where the "
        "architecture has {:g}, so that its numbers will differ a little",
        config.rms_norm_eps, model::kLatentNormEps);
  }
  model::Transformer architecture(config, model::Precision::kBF16);
  list_extras(extra_tensors(architecture, files, extra), "left out");
  const std::vector<Planned> plan = Plan(config, type).take();
  GgufMetadata metadata;
  metadata.add("general.architecture", "deepseek2");
  metadata.add("general.file_type", file_type(type));
  metadata.add("general.quantization_version", uint32_t{2});
  metadata.add("general.alignment", uint32_t{32});
  add_model(metadata, config);
  add_vocabulary(metadata, vocabulary, config.vocab_size);

  std::vector<GgufTensor> announced;
  for (const Planned& planned : plan) announced.push_back(planned.tensor);
  GgufWriter writer(path, metadata, std::move(announced));
  size_t done = 0;
  for (const Planned& planned : plan) {
    try {
      for (const std::string& source : planned.sources) {
        const std::vector<float> values = stored_values(files, source, planned.source_shape);
        write_values(writer,
                     planned.cut == Planned::Cut::kNone ? values : cut(values, config, planned.cut),
                     planned.tensor.type);
      }
    } catch (const Error& error) {
      fail("{} ({}): {}", planned.tensor.name, type_name(planned.tensor.type), error.what());
    }
    on_tensor(++done, plan.size());
  }
  writer.finish();
}

}  // namespace minke::checkpoint
