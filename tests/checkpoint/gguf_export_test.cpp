// GGUF: each tensor is the checkpoint's, under llama.cpp's name; what llama.cpp would read
// otherwise is refused.
#include "checkpoint/gguf_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "checkpoint/gguf_file.h"
#include "checkpoint/stored_values.h"
#include "golden.h"

namespace minke::checkpoint {
namespace {

using testing::HasSubstr;

model::ModelConfig config_of(const char* name) {
  return read_config(kGolden / name / "config.json").model;
}

GgufVocabulary vocabulary() {
  GgufVocabulary out;
  out.pre = "deepseek-v3";
  out.tokens = {"a", "b", "<bos>"};
  out.kinds = {1, 1, 3};
  out.merges = {"a b"};
  out.bos = 2;
  return out;
}

class Export : public testing::Test {
 protected:
  GgufFile written(const char* name, GgufType type) {
    const CheckpointFolder files(kGolden / name);
    export_gguf(folder_ / "model.gguf", files, config_of(name), vocabulary(), type, Extra::kRefused,
                [](size_t, size_t) {});
    return GgufFile(folder_ / "model.gguf");
  }
  static std::vector<float> stored(const char* name, const std::string& tensor) {
    const CheckpointFolder files(kGolden / name);
    return stored_values(files, tensor, Shape(files.stored(tensor).shape));
  }
  static void append(std::vector<float>& out, const std::vector<float>& more) {
    out.insert(out.end(), more.begin(), more.end());
  }

  TemporaryFolder folder_;
};

TEST_F(Export, TensorsAreTheCheckpointsUnderOtherNames) {
  const model::ModelConfig c = config_of("v3");
  const GgufFile file = written("v3", GgufType::kBF16);
  const auto same = [&](const std::string& to, const std::string& from) {
    EXPECT_EQ(file.values(to), stored("v3", from)) << to;
  };
  same("token_embd.weight", "model.embed_tokens.weight");
  same("output.weight", "lm_head.weight");
  same("output_norm.weight", "model.norm.weight");
  same("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight");
  same("blk.1.attn_q_a.weight", "model.layers.1.self_attn.q_a_proj.weight");
  same("blk.1.ffn_down_shexp.weight", "model.layers.1.mlp.shared_experts.down_proj.weight");
  same("blk.1.ffn_gate_inp.weight", "model.layers.1.mlp.gate.weight");
  same("blk.1.exp_probs_b.bias", "model.layers.1.mlp.gate.e_score_correction_bias");
  std::vector<float> experts;
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    append(experts, stored("v3", fmt::format("model.layers.1.mlp.experts.{}.up_proj.weight", e)));
  }
  EXPECT_EQ(file.values("blk.1.ffn_up_exps.weight"), experts);
  EXPECT_EQ(file.tensors.at("blk.1.ffn_up_exps.weight").ne,
            (std::vector<uint64_t>{static_cast<uint64_t>(c.hidden_size),
                                   static_cast<uint64_t>(c.moe_intermediate_size),
                                   static_cast<uint64_t>(c.n_routed_experts)}));
  // Norms and the router are FP32, matrices as asked.
  EXPECT_EQ(file.tensors.at("blk.1.ffn_gate_inp.weight").type, 0U);
  EXPECT_EQ(file.tensors.at("blk.1.attn_norm.weight").type, 0U);
  EXPECT_EQ(file.tensors.at("blk.1.attn_output.weight").type, 30U);
}

TEST_F(Export, HeadsOfKeysAreTransposedAndThoseOfValuesAreNot) {
  const model::ModelConfig c = config_of("v3");
  const GgufFile file = written("v3", GgufType::kBF16);
  const auto kv_b = stored("v3", "model.layers.1.self_attn.kv_b_proj.weight");
  const auto keys = file.values("blk.1.attn_k_b.weight"),
             values = file.values("blk.1.attn_v_b.weight");
  const int64_t R = c.kv_lora_rank, nope = c.qk_nope_head_dim, v = c.v_head_dim;
  for (int64_t h = 0; h < c.num_attention_heads; ++h) {
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t n = 0; n < nope; ++n) {
        EXPECT_EQ(keys[static_cast<size_t>((h * R + r) * nope + n)],
                  kv_b[static_cast<size_t>((h * (nope + v) + n) * R + r)]);
      }
      for (int64_t n = 0; n < v; ++n) {
        EXPECT_EQ(values[static_cast<size_t>((h * v + n) * R + r)],
                  kv_b[static_cast<size_t>((h * (nope + v) + nope + n) * R + r)]);
      }
    }
  }
}

// Trap 6, exported: the layer's index comes from the config.
TEST_F(Export, TheMtpLayerBecomesNextnTensors) {
  const model::ModelConfig c = config_of("v3");
  const GgufFile file = written("v3", GgufType::kBF16);
  ASSERT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(file.whole.at("deepseek2.nextn_predict_layers"), 1U);
  EXPECT_EQ(file.whole.at("deepseek2.block_count"), static_cast<uint32_t>(c.layers()));
  const std::string blk = fmt::format("blk.{}.", c.num_hidden_layers),
                    from = fmt::format("model.layers.{}.", c.num_hidden_layers);
  EXPECT_EQ(file.values(blk + "nextn.eh_proj.weight"), stored("v3", from + "eh_proj.weight"));
  EXPECT_EQ(file.values(blk + "nextn.hnorm.weight"), stored("v3", from + "hnorm.weight"));
  EXPECT_EQ(file.values(blk + "nextn.shared_head_head.weight"), stored("v3", "lm_head.weight"));
  EXPECT_TRUE(file.tensors.contains(blk + "ffn_gate_exps.weight"));
}

TEST_F(Export, MetadataSaysWhatTheConfigDoes) {
  const model::ModelConfig c = config_of("v3-yarn");
  const GgufFile file = written("v3-yarn", GgufType::kF16);
  EXPECT_EQ(file.text.at("general.architecture"), "deepseek2");
  EXPECT_EQ(file.whole.at("general.file_type"), 1U);
  EXPECT_EQ(file.whole.at("deepseek2.attention.key_length"),
            static_cast<uint32_t>(c.latent_width()));
  EXPECT_EQ(file.whole.at("deepseek2.attention.key_length_mla"),
            static_cast<uint32_t>(c.qk_head_dim()));
  EXPECT_EQ(file.whole.at("deepseek2.attention.head_count_kv"), 1U);
  EXPECT_EQ(file.whole.at("deepseek2.expert_gating_func"), 2U);
  EXPECT_EQ(file.real.at("deepseek2.expert_weights_scale"),
            static_cast<float>(c.routed_scaling_factor));
  EXPECT_EQ(file.text.at("deepseek2.rope.scaling.type"), "yarn");
  EXPECT_FLOAT_EQ(file.real.at("deepseek2.rope.scaling.yarn_log_multiplier"),
                  static_cast<float>(0.1 * c.rope_scaling->mscale_all_dim));
  // The head has more rows than the tokenizer tokens.
  const auto& tokens = file.texts.at("tokenizer.ggml.tokens");
  ASSERT_EQ(std::ssize(tokens), c.vocab_size);
  EXPECT_EQ(tokens[2], "<bos>");
  EXPECT_EQ(tokens[3], "[PAD3]");
  EXPECT_EQ(file.wholes.at("tokenizer.ggml.token_type")[3], GgufVocabulary::kUnused);
  EXPECT_EQ(file.whole.at("tokenizer.ggml.bos_token_id"), 2U);
  EXPECT_FALSE(file.whole.contains("tokenizer.ggml.eos_token_id"));
}

TEST_F(Export, Q8AndF16AreWithinHalfAStep) {
  std::vector<float> x;
  for (int i = 0; i < 96; ++i) x.push_back(std::sin(static_cast<float>(i)) * (i < 32 ? 0 : 1e-3F));
  x[70] = -2;
  for (const GgufType type : {GgufType::kF16, GgufType::kQ8}) {
    GgufWriter writer(folder_ / "x.gguf", {}, {{"x", type, {3, 32}}});
    std::string bytes;
    append_gguf(bytes, x, type);
    writer.write(bytes);
    writer.finish();
    const auto back = GgufFile(folder_ / "x.gguf").values("x");
    for (size_t i = 0; i < x.size(); ++i) {
      const float amax = i < 32 ? 0 : i < 64 ? 1e-3F : 2;
      // Half a step of the code, and the rounding of F16's 11 bits (subnormal below 2^-14).
      const float step = type == GgufType::kQ8 ? amax / 254 + amax * 0x1p-11F
                                               : std::max(std::fabs(x[i]) * 0x1p-11F, 0x1p-25F);
      EXPECT_LE(std::fabs(back[i] - x[i]), step * 1.0001F) << i;
    }
  }
  std::string bytes;
  EXPECT_THROW(append_gguf(bytes, std::vector<float>{1e6F}, GgufType::kF16), Error);
  EXPECT_THROW(append_gguf(bytes, std::vector<float>{NAN}, GgufType::kF16), Error);
  std::vector<float> block(32);
  block[5] = NAN;
  EXPECT_THROW(append_gguf(bytes, block, GgufType::kQ8), Error);
}

// The scale is 1: halves go away from zero, as ggml rounds them.
TEST_F(Export, Q8RoundsAsGgmlDoes) {
  std::vector<float> x(32);
  std::ranges::copy(std::vector{-127.0F, 0.5F, -0.5F, 2.5F, 0.49999997F, -126.5F}, x.begin());
  std::string bytes;
  append_gguf(bytes, x, GgufType::kQ8);
  ASSERT_EQ(bytes.size(), 34U);
  const auto* codes = reinterpret_cast<const int8_t*>(bytes.data() + 2);
  EXPECT_EQ(std::vector<int>(codes, codes + 6), (std::vector<int>{-127, 1, -1, 3, 0, -127}));
}

void expect_refused(const model::ModelConfig& config, GgufType type, const char* what) {
  try {
    check_gguf_export(config, type);
    ADD_FAILURE() << "taken, expected an error about " << what;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(what));
  }
}

TEST_F(Export, WhatLlamaCppReadsOtherwiseIsRefused) {
  const model::ModelConfig v3 = config_of("v3");
  EXPECT_NO_THROW(check_gguf_export(v3, GgufType::kBF16));
  auto changed = v3;
  changed.q_lora_rank = 0;
  expect_refused(changed, GgufType::kBF16, "26 or 27");
  changed.num_hidden_layers = 27;
  EXPECT_NO_THROW(check_gguf_export(changed, GgufType::kBF16));
  changed = v3;
  changed.num_hidden_layers = 27;
  expect_refused(changed, GgufType::kBF16, "without q_lora_rank");
  changed = v3;
  changed.qk_nope_head_dim = 24;
  expect_refused(changed, GgufType::kQ8, "blocks of 32");
  changed = config_of("v3-yarn");
  changed.rope_scaling->mscale = 0.5;
  expect_refused(changed, GgufType::kBF16, "mscale");
  changed = config_of("v2");
  changed.q_lora_rank = 8;
  changed.topk_method = ops::TopkMethod::kGroupLimitedGreedy;
  changed.n_group = 2;
  expect_refused(changed, GgufType::kBF16, "group_limited_greedy");
}

}  // namespace
}  // namespace minke::checkpoint
