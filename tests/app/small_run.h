// Text and a model so small that the program trains it within a test.
#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/run_program.h"
#include "base/rng.h"

namespace minke {

// Sentences of few words in an order that a model can learn.
inline std::string small_text(uint64_t seed, int sentences) {
  constexpr const char* kWho[] = {"Anne", "the captain", "Lady Russell", "Mary"};
  constexpr const char* kDoes[] = {"walked to", "spoke of", "remembered", "wrote from"};
  constexpr const char* kWhere[] = {"Lyme", "the sea", "Uppercross", "her father's house", "Bath"};
  Rng rng(seed);
  std::string out;
  for (int i = 0; i < sentences; ++i) {
    out += std::string(kWho[rng.below(4)]) + ' ' + kDoes[rng.below(4)] + ' ' + kWhere[rng.below(5)];
    out += i % 4 == 3 ? ".\n" : ". ";
  }
  return out;
}

inline nlohmann::json small_config() {
  return {{"architectures", {"DeepseekV3ForCausalLM"}},
          {"model_type", "deepseek_v3"},
          {"vocab_size", 320},
          {"hidden_size", 32},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 2},
          {"q_lora_rank", 12},
          {"kv_lora_rank", 16},
          {"qk_nope_head_dim", 8},
          {"qk_rope_head_dim", 4},
          {"v_head_dim", 8},
          {"intermediate_size", 48},
          {"moe_intermediate_size", 16},
          {"n_routed_experts", 8},
          {"n_shared_experts", 1},
          {"num_experts_per_tok", 2},
          {"first_k_dense_replace", 1},
          {"moe_layer_freq", 1},
          {"n_group", 4},
          {"topk_group", 2},
          {"scoring_func", "sigmoid"},
          {"topk_method", "noaux_tc"},
          {"norm_topk_prob", true},
          {"routed_scaling_factor", 2.5},
          {"rope_theta", 10000.0},
          {"rope_scaling", nullptr},
          {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-6},
          {"num_nextn_predict_layers", 1},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false},
          {"initializer_range", 0.02},
          {"bos_token_id", 0},
          {"eos_token_id", 1}};
}

// A folder with text and a config, and the flags of a run on them.
class SmallRuns {
 public:
  SmallRuns() {
    fs::create_directories(folder_ / "text");
    for (int i = 0; i < 3; ++i) {
      write(fmt::format("text/{}.txt", i), small_text(static_cast<uint64_t>(i), 30 + 7 * i));
    }
    write("valid.txt", small_text(9, 40));
    write("config.json", small_config().dump());
  }
  void write(const fs::path& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  // Of a run named `out`; more flags and values, which replace those that are there.
  std::vector<std::string> flags(const std::string& out,
                                 const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"train",    "--no-report",
                                    "--data",   path("text"),
                                    "--valid",  path("valid.txt"),
                                    "--model",  path("config.json"),
                                    "--vocab",  "320",
                                    "--batch",  "4",
                                    "--seq",    "16",
                                    "--warmup", "4",
                                    "--lr",     "0.01",
                                    "--out",    path(out)};
    for (size_t i = 0; i + 1 < more.size(); i += 2) {
      const auto found = std::ranges::find(all, more[i]);
      if (found != all.end()) {
        *std::next(found) = more[i + 1];
      } else {
        all.insert(all.end(), {more[i], more[i + 1]});
      }
    }
    // A model or a tokenizer that is there has its vocabulary.
    if (std::ranges::count(all, "--init") + std::ranges::count(all, "--tokenizer") > 0) {
      const auto vocab = std::ranges::find(all, "--vocab");
      all.erase(vocab, vocab + 2);
    }
    return all;
  }
  // The bytes that make a checkpoint what it is.
  std::string state(const std::string& out) const {
    std::string all;
    for (const char* name : {"model.safetensors", "optimizer.safetensors", "trainer_state.json"}) {
      all += read_file(folder_ / out / "checkpoint" / name);
    }
    const fs::path averages = folder_ / out / "checkpoint/ema.safetensors";
    if (fs::exists(averages)) all += read_file(averages);
    return all;
  }

 private:
  TemporaryFolder folder_;
};

inline void expect_success(const Said& said) { ASSERT_EQ(said.exit_code, 0) << said.err; }

// One clear line that holds all of these, and exit code 2.
template <typename... Parts>
void expect_fault(const Said& said, const Parts&... parts) {
  EXPECT_EQ(said.exit_code, 2) << said.err;
  EXPECT_EQ(said.out, "");
  // Before the fault there may be notes on what was done so far.
  const size_t at = said.err.rfind("minke: ");
  ASSERT_NE(at, std::string::npos) << said.err;
  const std::string fault = said.err.substr(at);
  EXPECT_EQ(std::ranges::count(fault, '\n'), 1) << fault;
  EXPECT_THAT(fault, testing::AllOf(testing::HasSubstr(parts)...));
}

inline void wait_until(const std::function<bool()>& done) {
  for (int i = 0; i < 3000 && !done(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_TRUE(done()) << "half a minute has passed";
}

inline int64_t lines_of(const fs::path& path) {
  if (!fs::exists(path)) return 0;
  const std::string text = read_file(path);
  return std::ranges::count(text, '\n');
}

inline nlohmann::json state_of(const SmallRuns& runs, const std::string& out) {
  return nlohmann::json::parse(read_file(runs.path(out + "/checkpoint/trainer_state.json")));
}

}  // namespace minke
