#include "checkpoint/hf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/json.h"

namespace minke::checkpoint {
namespace {

using Json = nlohmann::ordered_json;
using model::Fp8Blocks;
using model::ModelConfig;
using model::YarnScaling;

constexpr std::array<std::pair<ops::Scoring, std::string_view>, 2> kScorings = {
    {{ops::Scoring::kSigmoid, "sigmoid"}, {ops::Scoring::kSoftmax, "softmax"}}};
constexpr std::array<std::pair<ops::TopkMethod, std::string_view>, 3> kTopkMethods = {
    {{ops::TopkMethod::kGreedy, "greedy"},
     {ops::TopkMethod::kGroupLimitedGreedy, "group_limited_greedy"},
     {ops::TopkMethod::kNoauxTc, "noaux_tc"}}};

void get(const std::string& field, const Json& value, int64_t& out) {
  constexpr double kWhole = 1e15;  // Python writes 4096.0, too
  if (value.is_number_float() && std::abs(value.get<double>()) < kWhole &&
      std::trunc(value.get<double>()) == value.get<double>()) {
    out = static_cast<int64_t>(value.get<double>());
    return;
  }
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX)) {
    fail("{} is {}, expected a whole number", field, shown(value));
  }
  out = value.get<int64_t>();
}

void get(const std::string& field, const Json& value, double& out) {
  if (!value.is_number()) fail("{} is {}, expected a number", field, shown(value));
  out = value.get<double>();
}

void get(const std::string& field, const Json& value, bool& out) {
  if (!value.is_boolean()) fail("{} is {}, expected true or false", field, shown(value));
  out = value.get<bool>();
}

void get(const std::string& field, const Json& value, std::string& out) {
  if (!value.is_string()) fail("{} is {}, expected a string", field, shown(value));
  out = value.get<std::string>();
}

template <typename Enum, size_t kCount>
void get_enum(const std::string& field, const Json& value, Enum& out,
              const std::array<std::pair<Enum, std::string_view>, kCount>& names) {
  std::string all;
  for (const auto& [candidate, name] : names) {
    if (value == name) {
      out = candidate;
      return;
    }
    all += (all.empty() ? "" : ", ") + std::string(name);
  }
  fail("{} is {}, expected one of {}", field, shown(value), all);
}

void get(const std::string& field, const Json& value, ops::Scoring& out) {
  get_enum(field, value, out, kScorings);
}

void get(const std::string& field, const Json& value, ops::TopkMethod& out) {
  get_enum(field, value, out, kTopkMethods);
}

// A key that may be absent or null, for which `out` then keeps what it is.
template <typename T>
void get_if_there(const Json& object, const std::string& prefix, const char* key, T& out) {
  if (const Json* value = find(object, key)) get(prefix + key, *value, out);
}

// Fields whose absence has a meaning that all readers of such files share.
bool may_be_absent(std::string_view field) {
  static const std::set<std::string_view> kFields = {
      "q_lora_rank", "num_nextn_predict_layers", "initializer_range", "scoring_func", "topk_method",
      "rope_theta"};  // rope_theta: see read_rope
  return kFields.contains(field);
}

// Fields that released code gives null, and what null means.
std::optional<int64_t> meaning_of_null(std::string_view field) {
  if (field == "n_shared_experts") return 0;
  if (field == "n_group" || field == "topk_group") return 1;
  if (field == "bos_token_id") return -1;
  return {};
}

template <typename T>
void read_field(const Json& root, const char* name, T& out) {
  const auto at = root.find(name);
  if (at != root.end() && !at->is_null()) return get(name, *at, out);
  if (may_be_absent(name)) return;
  if constexpr (std::is_same_v<T, int64_t>) {
    const std::optional<int64_t> null = meaning_of_null(name);
    if (at != root.end() && null) {
      out = *null;
      return;
    }
  }
  fail("{} is {}, expected a value: the model's meaning depends on it", name,
       at == root.end() ? "absent" : "null");
}

// Before anything else: fields of other architectures are not missed one by one.
void check_architecture(const Json& root, const std::string& model_type) {
  constexpr const char* kExpected = "expected deepseek_v3, deepseek_v2 or kimi_k2";
  const bool known =
      model_type == "deepseek_v3" || model_type == "deepseek_v2" || model_type == "kimi_k2";
  if (model_type == "deepseek_v32" || (known && find(root, "index_topk") != nullptr)) {
    fail(
        "model_type is \"{}\", with sparse attention (DSA, as DeepSeek-V3.2 has), which minke does "
        "not compute; {} without it",
        model_type, kExpected);
  }
  if (model_type == "kimi_k25") {
    fail(
        "model_type is \"kimi_k25\", a model that sees pictures around a Kimi-K2, of which minke "
        "reads neither the wrapper nor its packed weights; {}",
        kExpected);
  }
  if (!known) fail("model_type is \"{}\", {}", model_type, kExpected);
  const Json* classes = find(root, "architectures");
  if (classes == nullptr || !classes->is_array() || classes->empty()) return;
  for (const char* name : {"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "KimiK2ForCausalLM"}) {
    if (classes->front() == name) return;
  }
  fail(
      "architectures is {}, and model_type \"{}\", expected DeepseekV3ForCausalLM, "
      "DeepseekV2ForCausalLM or KimiK2ForCausalLM",
      shown(*classes), model_type);
}

// Fields that minke computes in one way only; absent, they mean that way.
void check_fixed_fields(const Json& root, const ModelConfig& c) {
  const std::array<std::pair<const char*, Json>, 8> fixed = {{
      {"hidden_act", "silu"},
      {"moe_layer_freq", 1},
      {"attention_bias", false},
      {"tie_word_embeddings", false},
      {"rope_interleave", true},
      {"num_key_value_heads", c.num_attention_heads},
      {"mlp_bias", false},
      {"use_qk_norm", false},
  }};
  for (const auto& [key, expected] : fixed) {
    const Json* value = find(root, key);
    if (value != nullptr && *value != expected) {
      fail("{} is {}, expected {}", key, shown(*value), expected.dump());
    }
  }
  if (const Json* types = find(root, "layer_types")) {
    const bool full = types->is_array() && std::ranges::all_of(*types, [](const Json& type) {
                        return type == "full_attention";
                      });
    if (!full) fail("layer_types is {}, expected full_attention alone", shown(*types));
  }
  if (const Json* window = find(root, "sliding_window")) {
    fail("sliding_window is {}, expected null: attention is full here", shown(*window));
  }
}

struct Rope {
  std::optional<double> theta;
  std::optional<YarnScaling> yarn;
};

// rope_scaling, or the newer rope_parameters, which also holds rope_theta.
Rope read_rope_object(const Json& object, const std::string& name) {
  if (!object.is_object()) fail("{} is {}, expected an object or null", name, shown(object));
  const std::string prefix = name + ".";
  Rope rope;
  if (const Json* theta = find(object, "rope_theta")) {
    rope.theta.emplace();
    get(prefix + "rope_theta", *theta, *rope.theta);
  }
  const Json *type = find(object, "type"), *rope_type = find(object, "rope_type");
  if (type != nullptr && rope_type != nullptr && *type != *rope_type) {
    fail("{} has type {} and rope_type {}, expected one meaning", name, shown(*type),
         shown(*rope_type));
  }
  if (type == nullptr) type = rope_type;
  if (type == nullptr && object.size() == (rope.theta ? 1 : 0)) return rope;
  if (type == nullptr || (*type != "yarn" && *type != "default")) {
    fail("{}type is {}, expected yarn or default", prefix,
         type == nullptr ? "absent" : shown(*type));
  }
  if (*type == "default") return rope;
  YarnScaling& yarn = rope.yarn.emplace();
  for (const char* needed : {"factor", "original_max_position_embeddings"}) {
    if (find(object, needed) == nullptr) fail("{}{} is absent, expected a number", prefix, needed);
  }
  get_if_there(object, prefix, "factor", yarn.factor);
  get_if_there(object, prefix, "original_max_position_embeddings",
               yarn.original_max_position_embeddings);
  get_if_there(object, prefix, "beta_fast", yarn.beta_fast);
  get_if_there(object, prefix, "beta_slow", yarn.beta_slow);
  if (const Json* mscale = find(object, "mscale")) {
    get(prefix + "mscale", *mscale, yarn.mscale.emplace());
  }
  get_if_there(object, prefix, "mscale_all_dim", yarn.mscale_all_dim);
  if (const Json* amplitude = find(object, "attention_factor")) {
    fail("{}attention_factor is {}, expected none: mscale says it", prefix, shown(*amplitude));
  }
  const Json* truncate = find(object, "truncate");
  if (truncate != nullptr && *truncate != true) {
    fail("{}truncate is {}, expected true", prefix, shown(*truncate));
  }
  return rope;
}

void read_rope(const Json& root, ModelConfig& c) {
  Rope rope;
  if (const Json* theta = find(root, "rope_theta")) {
    get("rope_theta", *theta, rope.theta.emplace());
  }
  if (const Json* scaling = find(root, "rope_scaling")) {
    const Rope inner = read_rope_object(*scaling, "rope_scaling");
    if (inner.theta && rope.theta && *inner.theta != *rope.theta) {
      fail("rope_theta is {}, but {} in rope_scaling", *rope.theta, *inner.theta);
    }
    if (inner.theta) rope.theta = inner.theta;
    rope.yarn = inner.yarn;
  }
  if (const Json* parameters = find(root, "rope_parameters")) {
    const Rope inner = read_rope_object(*parameters, "rope_parameters");
    if (inner.theta && rope.theta && *inner.theta != *rope.theta) {
      fail("rope_theta is {}, but {} in rope_parameters", *rope.theta, *inner.theta);
    }
    if (rope.yarn && rope.yarn != inner.yarn) {
      fail("rope_scaling and rope_parameters differ, expected one of them, or the same");
    }
    if (inner.theta) rope.theta = inner.theta;
    rope.yarn = inner.yarn;
  }
  if (!rope.theta) fail("rope_theta is absent, expected a number there or in rope_parameters");
  c.rope_theta = *rope.theta;
  c.rope_scaling = rope.yarn;
}

// None where it is null: the tokenizer and generation_config.json may have some.
std::vector<int64_t> read_eos(const Json& root) {
  const Json* value = find(root, "eos_token_id");
  if (value == nullptr && root.contains("eos_token_id")) return {};
  if (value == nullptr || (value->is_array() && value->empty())) {
    fail("eos_token_id is {}, expected a token, a list of tokens or null",
         value == nullptr ? "absent" : "empty");
  }
  std::vector<int64_t> tokens;
  if (value->is_array()) {
    for (const Json& token : *value) get("eos_token_id", token, tokens.emplace_back());
  } else {
    get("eos_token_id", *value, tokens.emplace_back());
  }
  return tokens;
}

std::optional<Fp8Blocks> read_quantization(const Json& root) {
  const Json* object = find(root, "quantization_config");
  if (object == nullptr) return {};
  const std::string prefix = "quantization_config.";
  if (!object->is_object()) {
    fail("quantization_config is {}, expected an object or null", shown(*object));
  }
  const auto check_value = [&](const char* key, const char* expected) {
    const Json* value = find(*object, key);
    if (value == nullptr || *value != expected) {
      fail("{}{} is {}, expected {}", prefix, key, value == nullptr ? "absent" : shown(*value),
           expected);
    }
  };
  if (const Json* method = find(*object, "quant_method");
      method && *method == "compressed-tensors") {
    fail(
        "{}quant_method is \"compressed-tensors\" (int4, as Kimi-K2-Thinking has it), which minke "
        "does not read; expected fp8, or none for a copy in BF16",
        prefix);
  }
  // Files with integers are this program's own: no other may take them for FP8.
  const bool ours = object->contains("experts_bits") || object->contains("head_bits");
  check_value("quant_method", ours ? "minke" : "fp8");
  if (object->contains("fmt")) check_value("fmt", "e4m3");
  if (object->contains("activation_scheme")) check_value("activation_scheme", "dynamic");
  Fp8Blocks blocks;
  const Json* size = find(*object, "weight_block_size");
  if (size == nullptr || !size->is_array() || size->size() != 2) {
    fail("{}weight_block_size is {}, expected two sizes", prefix,
         size == nullptr ? "absent" : shown(*size));
  }
  get(prefix + "weight_block_size", (*size)[0], blocks.rows);
  get(prefix + "weight_block_size", (*size)[1], blocks.cols);
  if (const Json* format = find(*object, "scale_fmt")) {
    if (*format != "ue8m0") fail("{}scale_fmt is {}, expected ue8m0", prefix, shown(*format));
    blocks.ue8m0 = true;
  }
  get_if_there(*object, prefix, "experts_bits", blocks.expert_bits);
  get_if_there(*object, prefix, "head_bits", blocks.head_bits);
  return blocks;
}

// Sets a key, unless what stands there means the same: 40 stays 40 and does not become 40.0.
template <typename T>
void put(Json& object, const char* key, const T& value) {
  const Json json = value;
  const auto at = object.find(key);
  if (at == object.end() || *at != json) object[key] = json;
}

void put(Json& object, const char* key, ops::Scoring value) {
  put(object, key, std::string(name_of(value)));
}

void put(Json& object, const char* key, ops::TopkMethod value) {
  put(object, key, std::string(name_of(value)));
}

// The older spelling: every reader of such files knows it.
void put_rope(Json& root, const ModelConfig& c) {
  Json scaling = Json::object();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (const Json* had = find(root, key)) scaling.update(*had);
  }
  for (const char* key : {"rope_parameters", "rope_scaling"}) root.erase(key);
  for (const char* key : {"rope_theta", "rope_type"}) scaling.erase(key);
  if (!c.rope_scaling) {
    root["rope_scaling"] = nullptr;
    return;
  }
  const YarnScaling& yarn = *c.rope_scaling;
  put(scaling, "type", "yarn");
  put(scaling, "factor", yarn.factor);
  put(scaling, "original_max_position_embeddings", yarn.original_max_position_embeddings);
  put(scaling, "beta_fast", yarn.beta_fast);
  put(scaling, "beta_slow", yarn.beta_slow);
  if (yarn.mscale) {
    put(scaling, "mscale", *yarn.mscale);
  } else {
    scaling.erase("mscale");
  }
  put(scaling, "mscale_all_dim", yarn.mscale_all_dim);
  root["rope_scaling"] = scaling;
}

void put_quantization(Json& root, const std::optional<Fp8Blocks>& blocks) {
  if (!blocks) {
    root.erase("quantization_config");
    return;
  }
  Json& object = root["quantization_config"];
  if (!object.is_object()) object = Json::object();
  put(object, "activation_scheme", "dynamic");
  put(object, "fmt", "e4m3");
  put(object, "quant_method", blocks->expert_bits + blocks->head_bits > 0 ? "minke" : "fp8");
  const auto put_bits = [&](const char* key, int64_t bits) {
    object.erase(key);
    if (bits > 0) put(object, key, bits);
  };
  put_bits("experts_bits", blocks->expert_bits);
  put_bits("head_bits", blocks->head_bits);
  put(object, "weight_block_size", std::vector<int64_t>{blocks->rows, blocks->cols});
  if (blocks->ue8m0) {
    put(object, "scale_fmt", "ue8m0");
  } else {
    object.erase("scale_fmt");
  }
}

}  // namespace

std::string_view name_of(ops::Scoring scoring) {
  return kScorings[static_cast<size_t>(scoring)].second;
}

std::string_view name_of(ops::TopkMethod method) {
  return kTopkMethods[static_cast<size_t>(method)].second;
}

HfConfig parse_config(std::string_view text, const std::string& where) {
  HfConfig config;
  config.kept = parse_json<Json>(text, where);
  const Json& root = config.kept;
  try {
    if (!root.is_object()) fail("is {}, expected an object", shown(root));
    ModelConfig& c = config.model;
    get_if_there(root, "", "model_type", c.model_type);
    check_architecture(root, c.model_type);
    if (c.model_type == "deepseek_v2") {
      // What V2's own code takes where a file does not say.
      c.scoring_func = ops::Scoring::kSoftmax;
      c.topk_method = ops::TopkMethod::kGreedy;
    }
    visit_fields(c, [&](const char* name, auto& field) { read_field(root, name, field); });
    read_rope(root, c);
    c.eos_token_id = read_eos(root);
    c.quantization = read_quantization(root);
    check_fixed_fields(root, c);
    c.check();
  } catch (const Error& error) {
    fail("{}: {}", where, error.what());
  }
  return config;
}

HfConfig read_config(const fs::path& path) {
  constexpr uint64_t kMaxBytes = 1 << 24;
  return parse_config(read_file(path, kMaxBytes), path.string());
}

std::string config_text(const HfConfig& config) {
  const ModelConfig& c = config.model;
  Json root = config.kept;
  const auto put_if_absent = [&](const char* key, const Json& value) {
    if (find(root, key) == nullptr) root[key] = value;
  };
  put_if_absent("architectures",
                Json::array({c.model_type == "deepseek_v2" ? "DeepseekV2ForCausalLM"
                                                           : "DeepseekV3ForCausalLM"}));
  visit_fields(c, [&](const char* name, const auto& field) { put(root, name, field); });
  if (c.q_lora_rank == 0) root["q_lora_rank"] = nullptr;
  if (c.bos_token_id < 0) root["bos_token_id"] = nullptr;
  put_rope(root, c);
  put_quantization(root, c.quantization);
  if (c.eos_token_id.empty()) {
    root["eos_token_id"] = nullptr;
  } else if (find(root, "eos_token_id") == nullptr || read_eos(root) != c.eos_token_id) {
    root["eos_token_id"] =
        c.eos_token_id.size() == 1 ? Json(c.eos_token_id.front()) : Json(c.eos_token_id);
  }
  put(root, "num_key_value_heads", c.num_attention_heads);
  put(root, "hidden_act", "silu");
  put(root, "moe_layer_freq", 1);
  put(root, "attention_bias", false);
  put_if_absent("attention_dropout", 0.0);
  put(root, "tie_word_embeddings", false);
  put_if_absent("use_cache", true);
  // Weights are written in BF16, whatever they were read from.
  root.erase("dtype");
  put(root, "torch_dtype", "bfloat16");
  return root.dump(2) + "\n";
}

}  // namespace minke::checkpoint
