#include "checkpoint/hf_config.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "golden.h"
#include "mutate.h"

namespace minke::checkpoint {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;
using testing::Throws;

std::vector<fs::path> configs() {
  std::vector<fs::path> out;
  for (const auto& entry : fs::recursive_directory_iterator(kGolden)) {
    const bool released = entry.path().parent_path().filename() == "configs";
    if (entry.path().filename() == "config.json" ||
        (released && entry.path().extension() == ".json")) {
      out.push_back(entry.path());
    }
  }
  return out;
}

ordered_json golden_json(const std::string& name) {
  return ordered_json::parse(read_file(kGolden / name / "config.json"));
}

HfConfig parse(const ordered_json& json) { return parse_config(json.dump(), "config.json"); }

TEST(HfConfigTest, ReadsEveryFieldOfYarnGolden) {
  const model::ModelConfig c = read_config(kGolden / "v3-yarn" / "config.json").model;
  EXPECT_EQ(c.vocab_size, 97);
  EXPECT_EQ(c.hidden_size, 64);
  EXPECT_EQ(c.num_hidden_layers, 3);
  EXPECT_EQ(c.num_attention_heads, 4);
  EXPECT_EQ(c.q_lora_rank, 24);
  EXPECT_EQ(c.kv_lora_rank, 32);
  EXPECT_EQ(c.qk_nope_head_dim, 16);
  EXPECT_EQ(c.qk_rope_head_dim, 8);
  EXPECT_EQ(c.v_head_dim, 12);
  EXPECT_EQ(c.intermediate_size, 96);
  EXPECT_EQ(c.moe_intermediate_size, 20);
  EXPECT_EQ(c.n_routed_experts, 8);
  EXPECT_EQ(c.n_shared_experts, 1);
  EXPECT_EQ(c.num_experts_per_tok, 3);
  EXPECT_EQ(c.first_k_dense_replace, 1);
  EXPECT_EQ(c.n_group, 4);
  EXPECT_EQ(c.topk_group, 2);
  EXPECT_EQ(c.scoring_func, ops::Scoring::kSigmoid);
  EXPECT_EQ(c.topk_method, ops::TopkMethod::kNoauxTc);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  EXPECT_EQ(c.rope_theta, 10000);
  ASSERT_TRUE(c.rope_scaling);
  EXPECT_EQ(c.rope_scaling->factor, 40);
  EXPECT_EQ(c.rope_scaling->original_max_position_embeddings, 16);
  EXPECT_EQ(c.rope_scaling->beta_fast, 32);
  EXPECT_EQ(c.rope_scaling->beta_slow, 1);
  EXPECT_EQ(c.rope_scaling->mscale, 1.0);
  EXPECT_EQ(c.rope_scaling->mscale_all_dim, 1.0);
  EXPECT_EQ(c.max_position_embeddings, 4096);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(c.initializer_range, 0.006);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_id, std::vector<int64_t>{1});
  EXPECT_FALSE(c.quantization);
}

TEST(HfConfigTest, ReadsV2AndFp8) {
  const model::ModelConfig v2 = read_config(kGolden / "v2" / "config.json").model;
  EXPECT_EQ(v2.scoring_func, ops::Scoring::kSoftmax);
  EXPECT_EQ(v2.topk_method, ops::TopkMethod::kGroupLimitedGreedy);
  EXPECT_EQ(read_config(kGolden / "v2-lite" / "config.json").model.q_lora_rank, 0);
  const model::ModelConfig fp8 = read_config(kGolden / "v3-fp8" / "config.json").model;
  ASSERT_TRUE(fp8.quantization);
  EXPECT_EQ(fp8.quantization->rows, 128);
  EXPECT_EQ(fp8.quantization->cols, 128);
  EXPECT_FALSE(fp8.quantization->ue8m0);
}

// Written again, a file says the same under every key that it had; read again, it is equal.
TEST(HfConfigTest, EveryGoldenSurvives) {
  EXPECT_GE(configs().size(), 11U);
  for (const fs::path& path : configs()) {
    const HfConfig config = read_config(path);
    const std::string text = config_text(config);
    const auto before = ordered_json::parse(read_file(path)), after = ordered_json::parse(text);
    for (const auto& [key, value] : before.items()) {
      EXPECT_EQ(after.value(key, ordered_json()), value) << path << " " << key;
    }
    EXPECT_EQ(parse_config(text, "again").model, config.model) << path;
    EXPECT_EQ(config_text(parse_config(text, "again")), text) << path;
  }
}

// What transformers and the released code read, from a config that never was a file.
TEST(HfConfigTest, WritesWhatOthersRead) {
  HfConfig config;
  config.model = read_config(kGolden / "v3-yarn" / "config.json").model;
  const auto json = ordered_json::parse(config_text(config));
  const ordered_json expected = golden_json("v3-yarn");
  for (const auto& [key, value] : expected.items()) {
    EXPECT_EQ(json.value(key, ordered_json()), value) << key;
  }
  EXPECT_EQ(parse(json).model, config.model);
}

TEST(HfConfigTest, UnknownKeysAreKept) {
  ordered_json json = golden_json("v3");
  json["auto_map"] = {{"AutoModel", "modeling.py"}};
  json["ep_size"] = 1;
  json["head_dim"] = 64;
  HfConfig config = parse(json);
  config.model.routed_scaling_factor = 3;
  const auto after = ordered_json::parse(config_text(config));
  EXPECT_EQ(after["auto_map"], json["auto_map"]);
  EXPECT_EQ(after["ep_size"], 1);
  EXPECT_EQ(after["head_dim"], 64);
  EXPECT_EQ(after["routed_scaling_factor"], 3);
}

TEST(HfConfigTest, TheModelOverridesWhatWasKept) {
  HfConfig config = parse(golden_json("v3-fp8"));
  config.model.quantization.reset();
  config.model.eos_token_id = {1, 2};
  const auto after = ordered_json::parse(config_text(config));
  EXPECT_FALSE(after.contains("quantization_config"));
  EXPECT_EQ(after["eos_token_id"], ordered_json({1, 2}));
}

// As transformers saves such a model again.
TEST(HfConfigTest, NewerSpellings) {
  ordered_json json = golden_json("v3-yarn");
  const model::ModelConfig expected = parse(json).model;
  ordered_json rope = json["rope_scaling"];
  rope["rope_theta"] = 10000.0;
  rope["rope_type"] = "yarn";
  json["rope_parameters"] = rope;
  for (const char* old : {"rope_theta", "rope_scaling", "torch_dtype", "scoring_func",
                          "topk_method", "moe_layer_freq", "tie_word_embeddings"}) {
    json.erase(old);
  }
  json["dtype"] = "bfloat16";
  json["head_dim"] = 8;
  json["eos_token_id"] = {1};
  const HfConfig config = parse(json);
  EXPECT_EQ(config.model, expected);
  const auto after = ordered_json::parse(config_text(config));
  EXPECT_FALSE(after.contains("rope_parameters"));
  EXPECT_FALSE(after.contains("dtype"));
  EXPECT_EQ(after["torch_dtype"], "bfloat16");
  EXPECT_EQ(after["eos_token_id"], ordered_json::array({1}));
  EXPECT_EQ(parse(after).model, expected);

  json["rope_parameters"] = {{"rope_theta", 50000}, {"rope_type", "default"}};
  EXPECT_FALSE(parse(json).model.rope_scaling);
  EXPECT_EQ(parse(json).model.rope_theta, 50000);
}

TEST(HfConfigTest, AbsentAndNull) {
  ordered_json json = golden_json("moonlight");
  for (const char* key :
       {"q_lora_rank", "num_nextn_predict_layers", "initializer_range", "rope_scaling"}) {
    json.erase(key);
  }
  json["n_group"] = nullptr;
  json["n_shared_experts"] = nullptr;
  const model::ModelConfig c = parse(json).model;
  EXPECT_EQ(c.q_lora_rank, 0);
  EXPECT_EQ(c.num_nextn_predict_layers, 0);
  EXPECT_EQ(c.n_group, 1);
  EXPECT_EQ(c.n_shared_experts, 0);
  EXPECT_FALSE(c.rope_scaling);

  // As transformers writes a model that was made without them.
  json["bos_token_id"] = json["eos_token_id"] = nullptr;
  json["max_position_embeddings"] = 4096.0;
  const HfConfig none = parse(json);
  EXPECT_EQ(none.model.bos_token_id, -1);
  EXPECT_TRUE(none.model.eos_token_id.empty());
  EXPECT_EQ(none.model.max_position_embeddings, 4096);
  const auto again = ordered_json::parse(config_text(none));
  for (const char* key : {"bos_token_id", "eos_token_id", "max_position_embeddings"}) {
    EXPECT_EQ(again[key], json[key]) << key;
  }

  ordered_json v2 = golden_json("v2-lite");
  v2.erase("scoring_func");
  v2.erase("topk_method");
  v2["rope_scaling"].erase("mscale");
  v2["rope_scaling"].erase("mscale_all_dim");
  const model::ModelConfig lite = parse(v2).model;
  EXPECT_EQ(lite.scoring_func, ops::Scoring::kSoftmax);
  EXPECT_EQ(lite.topk_method, ops::TopkMethod::kGreedy);
  EXPECT_FALSE(lite.rope_scaling->mscale);
  EXPECT_EQ(lite.rope_scaling->mscale_all_dim, 0);
  EXPECT_EQ(parse_config(config_text({lite, {}}), "again").model, lite);
}

TEST(HfConfigTest, ScalesAsPowersOfTwo) {
  ordered_json json = golden_json("v3-fp8");
  json["quantization_config"]["scale_fmt"] = "ue8m0";
  const HfConfig config = parse(json);
  EXPECT_TRUE(config.model.quantization->ue8m0);
  EXPECT_EQ(ordered_json::parse(config_text(config))["quantization_config"],
            json["quantization_config"]);
}

struct Fault {
  const char* patch;    // merged into the file; a value "absent" removes the key
  const char* message;  // what the error says, after the file
};

class FaultTest : public testing::TestWithParam<Fault> {};

TEST_P(FaultTest, IsAnErrorThatNamesIt) {
  ordered_json json = golden_json("v3-fp8");
  json["rope_scaling"] = golden_json("v3-yarn")["rope_scaling"];
  const auto patch = ordered_json::parse(GetParam().patch);
  for (const auto& [key, value] : patch.items()) {
    const auto at = ordered_json::json_pointer("/" + key);
    if (value == "absent") {
      json.erase(key);
    } else {
      json[at] = value;
    }
  }
  const std::string expected = std::string("dir/config.json: ") + GetParam().message;
  EXPECT_THAT([&] { parse_config(json.dump(), "dir/config.json"); },
              Throws<Error>(testing::Property(&Error::what, HasSubstr(expected))))
      << GetParam().patch;
}

INSTANTIATE_TEST_SUITE_P(
    HfConfigTest, FaultTest,
    testing::Values(
        Fault{R"({"model_type":"llama"})", "model_type is \"llama\", expected deepseek_v3"},
        Fault{R"({"model_type":"deepseek_v32"})", "model_type is \"deepseek_v32\", with sparse"},
        Fault{R"({"model_type":"kimi_k25","vocab_size":"absent"})",
              "model_type is \"kimi_k25\", a model that sees pictures"},
        Fault{R"({"index_topk":2048})", "model_type is \"deepseek_v3\", with sparse attention"},
        Fault{R"({"architectures":["LlamaForCausalLM"]})",
              "architectures is [\"LlamaForCausalLM\"]"},
        Fault{R"({"mlp_bias":true})", "mlp_bias is true, expected false"},
        Fault{R"({"use_qk_norm":true})", "use_qk_norm is true"},
        Fault{R"({"sliding_window":4096})", "sliding_window is 4096"},
        Fault{R"({"layer_types":["sliding_attention"]})", "layer_types is"},
        Fault{R"({"quantization_config":{"quant_method":"compressed-tensors"}})",
              "quantization_config.quant_method is \"compressed-tensors\" (int4"},
        Fault{R"({"model_type":"absent"})", "model_type is absent"},
        Fault{R"({"scoring_func":"tanh"})", "scoring_func is \"tanh\", expected one of sigmoid"},
        Fault{R"({"topk_method":"best"})", "topk_method is \"best\", expected one of greedy"},
        Fault{R"({"hidden_act":"gelu"})", "hidden_act is \"gelu\", expected \"silu\""},
        Fault{R"({"moe_layer_freq":2})", "moe_layer_freq is 2, expected 1"},
        Fault{R"({"attention_bias":true})", "attention_bias is true, expected false"},
        Fault{R"({"tie_word_embeddings":true})", "tie_word_embeddings is true, expected false"},
        Fault{R"({"rope_interleave":false})", "rope_interleave is false, expected true"},
        Fault{R"({"num_key_value_heads":1})", "num_key_value_heads is 1, expected 2"},
        Fault{R"({"rope_scaling/type":"linear"})",
              "rope_scaling.type is \"linear\", expected yarn"},
        Fault{R"({"rope_scaling/rope_type":"default"})", "rope_scaling has type \"yarn\" and"},
        Fault{R"({"rope_scaling/factor":null})", "rope_scaling.factor is absent"},
        Fault{R"({"rope_scaling/factor":"40"})", "rope_scaling.factor is \"40\""},
        Fault{R"({"rope_scaling/factor":0})", "rope_scaling.factor is 0"},
        Fault{R"({"rope_scaling/attention_factor":1.5})", "rope_scaling.attention_factor is 1.5"},
        Fault{R"({"rope_scaling/truncate":false})", "rope_scaling.truncate is false"},
        Fault{R"({"rope_scaling":"yarn"})", "rope_scaling is \"yarn\", expected an object"},
        Fault{R"({"rope_parameters":{"rope_theta":1e6,"type":"default"}})", "rope_theta is"},
        Fault{R"({"rope_parameters":{"type":"default"}})",
              "rope_scaling and rope_parameters differ"},
        Fault{R"({"rope_theta":"absent"})", "rope_theta is absent"},
        Fault{R"({"rope_theta":-1})", "rope_theta is -1"},
        Fault{R"({"quantization_config/quant_method":"awq"})",
              "quantization_config.quant_method is \"awq\", expected fp8"},
        Fault{R"({"quantization_config/fmt":"e5m2"})", "quantization_config.fmt is \"e5m2\""},
        Fault{R"({"quantization_config/activation_scheme":"static"})",
              "quantization_config.activation_scheme is \"static\""},
        Fault{R"({"quantization_config/weight_block_size":[128]})",
              "quantization_config.weight_block_size is [128]"},
        Fault{R"({"quantization_config/weight_block_size":[128,0]})",
              "quantization_config.weight_block_size[1] is 0"},
        Fault{R"({"quantization_config/scale_fmt":"e5"})",
              "quantization_config.scale_fmt is \"e5\""},
        Fault{R"({"hidden_size":"absent"})", "hidden_size is absent"},
        Fault{R"({"hidden_size":null})", "hidden_size is null"},
        Fault{R"({"hidden_size":"64"})", "hidden_size is \"64\", expected a whole number"},
        Fault{R"({"hidden_size":64.5})", "hidden_size is 64.5, expected a whole number"},
        Fault{R"({"hidden_size":18446744073709551615})", "hidden_size is 18446744073709551615"},
        Fault{R"({"norm_topk_prob":1})", "norm_topk_prob is 1, expected true or false"},
        Fault{R"({"eos_token_id":"absent"})", "eos_token_id is absent"},
        Fault{R"({"eos_token_id":[]})", "eos_token_id is empty"},
        Fault{R"({"eos_token_id":[1,97]})", "eos_token_id is 97"},
        Fault{R"({"n_group":3})", "n_routed_experts is 4, expected a multiple of n_group"}));

// Trap 18: any damage is read, and then written and read again as the same, or throws Error.
TEST(HfConfigTest, Trap18MutationsAreReadOrThrow) {
  const std::string text = read_file(kGolden / "configs" / "deepseek-v3.json");
  Rng rng(11);
  int64_t read = 0, refused = 0;
  for (int i = 0; i < 3000; ++i) {
    HfConfig config;
    try {
      config = parse_config(mutated(text, rng), "mutated");
    } catch (const Error&) {
      ++refused;
      continue;
    }
    ++read;
    EXPECT_EQ(parse_config(config_text(config), "written").model, config.model);
  }
  EXPECT_GT(read, 100);
  EXPECT_GT(refused, 500);
}

TEST(HfConfigTest, NotAConfigAtAll) {
  for (const char* text : {"", "{", "[]", "3", R"({"a":1,"a":2})", "\xff"}) {
    EXPECT_THROW(parse_config(text, "config.json"), Error) << text;
  }
  EXPECT_THROW(read_config(kGolden / "none.json"), Error);
}

}  // namespace
}  // namespace minke::checkpoint
