#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/run_program.h"

namespace minke {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json inspect(const std::string& path) {
  const Said said = run_program({"inspect", "--json", path});
  EXPECT_EQ(said.exit_code, 0) << said.err;
  EXPECT_EQ(said.err, "");
  return json::parse(said.out);
}

void expect_fault(const fs::path& path, const std::string& what) {
  const Said said = run_program({"inspect", path.string()});
  EXPECT_EQ(said.exit_code, 2);
  EXPECT_EQ(said.out, "");
  EXPECT_EQ(std::ranges::count(said.err, '\n'), 1) << said.err;
  EXPECT_THAT(said.err, HasSubstr(what));
}

// Published totals, from the released configs alone.
TEST(Inspect, ReleasedConfigs) {
  const json v3 = inspect(MINKE_GOLDEN_DIR "/configs/deepseek-v3.json");
  EXPECT_EQ(v3["parameters"]["total"]["total"], 671'026'419'200);
  EXPECT_EQ(v3["parameters"]["active"]["without_embedding"], 36'625'618'432);
  EXPECT_NEAR(v3["parameters"]["mtp_total"]["total"].get<double>(), 11.6e9, 5e7);
  EXPECT_EQ(v3["cache_bytes_per_token"]["latent"], 70'272);
  EXPECT_EQ(v3["cache_bytes_per_token"]["mha"], 4'997'120);
  EXPECT_NEAR(v3["train_flops_per_token"]["total"].get<double>(), 250e9, 5e8);

  const json lite = inspect(MINKE_GOLDEN_DIR "/configs/deepseek-v2-lite.json")["parameters"];
  EXPECT_NEAR(lite["total"]["total"].get<double>(), 15.7e9, 5e7);
  EXPECT_NEAR(lite["active"]["without_embedding"].get<double>(), 2.45e9, 5e6);
  const json moonlight = inspect(MINKE_GOLDEN_DIR "/configs/moonlight-16b-a3b.json")["parameters"];
  EXPECT_NEAR(moonlight["total"]["total"].get<double>(), 16e9, 5e8);
  EXPECT_NEAR(moonlight["active"]["without_embedding"].get<double>(), 2.58e9, 5e6);
  const json kimi = inspect(MINKE_GOLDEN_DIR "/configs/kimi-k2.json")["parameters"];
  EXPECT_NEAR(kimi["total"]["total"].get<double>(), 1e12, 5e10);
  EXPECT_NEAR(kimi["active"]["without_embedding"].get<double>(), 31.7e9, 5e7);
}

// Models whose configs are another's with a few fields changed.
TEST(Inspect, ReleasedConfigsThatAreNearlyAnothers) {
  const TemporaryFolder folder;
  const auto changed = [&](const char* base, const json& patch) {
    json config = json::parse(read_file(std::string(MINKE_GOLDEN_DIR "/configs/") + base));
    config.merge_patch(patch);
    write_file_atomic(folder / "config.json", config.dump());
    return inspect(folder.path());
  };
  // R1 is V3 itself; V3.1 says that its scales are powers of two.
  const json v3 = inspect(MINKE_GOLDEN_DIR "/configs/deepseek-v3.json");
  const json v31 = changed("deepseek-v3.json", {{"quantization_config", {{"scale_fmt", "ue8m0"}}}});
  EXPECT_EQ(v31["parameters"], v3["parameters"]);
  EXPECT_EQ(v31["config"]["quantization_config"]["scale_fmt"], "ue8m0");
  // Kimi-K2 as it was released later, and Moonlight's eos as a list.
  EXPECT_EQ(changed("kimi-k2.json",
                    {{"rope_scaling", {{"factor", 64.0}}}, {"eos_token_id", 163586}})["parameters"],
            inspect(MINKE_GOLDEN_DIR "/configs/kimi-k2.json")["parameters"]);
  // V2: published as 236B, of which 21B are active.
  const json v2 = changed("deepseek-v2-lite.json", {{"hidden_size", 5120},
                                                    {"num_hidden_layers", 60},
                                                    {"num_attention_heads", 128},
                                                    {"num_key_value_heads", 128},
                                                    {"q_lora_rank", 1536},
                                                    {"intermediate_size", 12288},
                                                    {"moe_intermediate_size", 1536},
                                                    {"n_routed_experts", 160},
                                                    {"n_shared_experts", 2},
                                                    {"num_experts_per_tok", 6},
                                                    {"n_group", 8},
                                                    {"topk_group", 3},
                                                    {"topk_method", "group_limited_greedy"},
                                                    {"routed_scaling_factor", 16.0}})["parameters"];
  EXPECT_NEAR(v2["total"]["total"].get<double>(), 236e9, 5e8);
  EXPECT_NEAR(v2["active"]["without_embedding"].get<double>(), 21e9, 5e8);
}

TEST(Inspect, ForPeople) {
  const Said said = run_program({"inspect", MINKE_GOLDEN_DIR "/configs/deepseek-v3.json"});
  EXPECT_EQ(said.exit_code, 0) << said.err;
  for (const char* fact : {"deepseek_v3", "671B", "36.6B", "61 (3 dense, 58 of experts)",
                           "8 of 256 chosen", "YaRN 40x from 4096", "70.3 kB", "GQA", "MHA"}) {
    EXPECT_THAT(said.out, HasSubstr(fact));
  }
}

// In a folder, what the files hold is what the config says, MTP layers' copies and scales aside.
void expect_all_parameters(const fs::path& folder) {
  const json found = inspect(folder.string());
  EXPECT_EQ(found["files"]["parameters"].get<int64_t>(),
            found["parameters"]["total"]["total"].get<int64_t>() +
                found["parameters"]["mtp_total"]["total"].get<int64_t>())
      << folder;
  EXPECT_LT(found["files"]["bytes"].get<uint64_t>(), fs::file_size(folder / "model.safetensors"));
}

TEST(Inspect, FoldersHoldWhatTheirConfigsSay) {
  for (const char* name : {"v3", "v2", "v2-lite", "moonlight", "kimi-k2", "v3-fp8",
                           "v3-packed-mtp2", "v3-odd-sizes", "v3-negative-bias"}) {
    expect_all_parameters(std::string(MINKE_GOLDEN_DIR "/") + name);
  }
}

TEST(Inspect, CodesOfIntegersAreParametersAndTheirScalesNot) {
  const TemporaryFolder folder;
  for (const char* experts : {"int8", "int4"}) {
    const fs::path out = folder.path() / experts;
    ASSERT_EQ(run_program({"quantize", std::string(MINKE_GOLDEN_DIR) + "/v3", "--out", out.string(),
                           "--experts", experts, "--head", "int8"})
                  .exit_code,
              0);
    expect_all_parameters(out);
  }
}

// Less is kept at each level, and nothing else of a step that lasts changes.
TEST(Inspect, TrainingMemoryByLevelOfRecompute) {
  const auto memory = [](const char* batch) {
    const Said said = run_program({"inspect", std::string(MINKE_GOLDEN_DIR) + "/v3", "--json",
                                   "--train", "--batch", batch, "--seq", "64"});
    EXPECT_EQ(said.exit_code, 0) << said.err;
    return json::parse(said.out)["train_memory"];
  };
  const json one = memory("1"), four = memory("4");
  const auto bytes = [](const json& m, const char* level, const char* kind) {
    return m[level][kind].get<uint64_t>();
  };
  EXPECT_LT(bytes(one, "paper", "activations"), bytes(one, "none", "activations"));
  EXPECT_LT(bytes(one, "block", "activations"), bytes(one, "paper", "activations"));
  EXPECT_GT(bytes(four, "none", "activations"), 3 * bytes(one, "none", "activations"));
  for (const char* kind : {"weights", "gradients", "moments", "operands"}) {
    EXPECT_EQ(bytes(one, "none", kind), bytes(four, "block", kind)) << kind;
  }
}

TEST(Inspect, BadInputIsOneLine) {
  const TemporaryFolder folder;
  expect_fault(folder / "nowhere", "no such file");
  expect_fault(folder.path(), "config.json");
  write_file_atomic(folder / "config.json", "{\"model_type\": \"llama\"}");
  expect_fault(folder / "config.json", "config.json");
  write_file_atomic(folder / "config.json", "not json\n\nat all");
  expect_fault(folder / "config.json", "not valid JSON");
  std::string config = read_file(MINKE_GOLDEN_DIR "/configs/deepseek-v3.json");
  config.replace(config.find("noaux_tc"), 8, "magic_tc");
  write_file_atomic(folder / "config.json", config);
  expect_fault(folder.path(), "magic_tc");
  fs::remove(folder / "config.json");
  fs::copy(MINKE_GOLDEN_DIR "/v3/config.json", folder.path());
  const std::string weights = read_file(MINKE_GOLDEN_DIR "/v3/model.safetensors");
  write_file_atomic(folder / "model.safetensors", weights.substr(0, weights.size() / 2));
  expect_fault(folder.path(), "model.safetensors");
}

}  // namespace
}  // namespace minke
