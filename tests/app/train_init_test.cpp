// What minke train learns from and goes on from: rewritten text, other models, conversations, FP8.
#include "app/small_run.h"
#include "checkpoint/safetensors.h"

namespace minke {
namespace {

using testing::HasSubstr;

// A run with a rate of 0 reads the held-out text as it was, whatever is done to the other.
TEST(Train, OnlyTextToLearnFromIsRewritten) {
  const SmallRuns runs;
  const auto last_events = [&](const std::string& out, bool named, bool rewritten) {
    auto flags = runs.flags(out, {"--steps", "2", "--lr", "0", "--gamma", "0"});
    if (rewritten) flags.insert(flags.end(), {"--fim", "1", "--split-punctuation", "1"});
    if (!named) {
      const auto at = std::ranges::find(flags, "--valid");
      flags.erase(at, at + 2);
      flags.insert(flags.end(), {"--valid-fraction", "0.4"});
    }
    expect_success(run_program(flags));
    std::map<std::string, nlohmann::json> last;
    std::istringstream lines(read_file(runs.path(out + "/metrics.jsonl")));
    for (std::string line; std::getline(lines, line);) {
      const auto event = nlohmann::json::parse(line);
      last[event["event"]] = event;
    }
    return last;
  };
  // Held out by name, or some of the same documents.
  for (const bool named : {true, false}) {
    const std::string name = named ? "named" : "fraction";
    auto plain = last_events(name, named, false);
    auto rewritten = last_events(name + "-rewritten", named, true);
    EXPECT_EQ(plain["eval"]["loss"], rewritten["eval"]["loss"]);
    EXPECT_EQ(plain["eval"]["tokens"], rewritten["eval"]["tokens"]);
    EXPECT_NE(plain["step"]["loss"], rewritten["step"]["loss"]);
  }
}

// A run with a rate of 0 shows what it began with.
TEST(Train, ARunGoesOnFromAnotherModel) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("first", {"--steps", "30", "--gamma", "0.01"})));
  const std::vector<std::string> still = {
      "--steps", "2", "--lr", "0", "--gamma", "0", "--model", "", "--init", runs.path("first")};
  expect_success(run_program(runs.flags("second", still)));
  const auto file = [&](const std::string& run, const char* name) {
    return read_file(runs.path(run + "/checkpoint/" + name));
  };
  for (const char* name : {"model.safetensors", "tokenizer.json"}) {
    EXPECT_TRUE(file("first", name) == file("second", name)) << name;
  }
  EXPECT_EQ(nlohmann::json::parse(file("first", "config.json")),
            nlohmann::json::parse(file("second", "config.json")));
  // And learns on from there: what it says at once is what the first one ended with, nearly.
  auto learns = still;
  learns[1] = "8";
  learns[3] = "0.001";
  expect_success(run_program(runs.flags("third", learns)));
  std::istringstream lines(read_file(runs.path("third/metrics.jsonl")));
  double loss = 0;
  for (std::string line; loss == 0 && std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] == "step") loss = event["loss"];
  }
  EXPECT_LT(loss, 4.5);  // ln 320 = 5.8 is a guess

  expect_fault(run_program(runs.flags("bad", {"--steps", "2", "--init", runs.path("first")})),
               "--model");
  auto nowhere = still;
  nowhere.back() = runs.path("text");
  expect_fault(run_program(runs.flags("bad", nowhere)), "text", "config.json");
  std::string weights = file("first", "model.safetensors");
  weights.back() = static_cast<char>(weights.back() ^ 1);
  runs.write("first/checkpoint/model.safetensors", weights);
  expect_fault(run_program(runs.flags("bad", still)), "model.safetensors", "not as it was saved");
}

// Whatever its tokenizer is written as: tiktoken.model is Kimi's and Moonlight's.
TEST(Train, ARunGoesOnFromAModelWithATiktokenModel) {
  const SmallRuns runs;
  auto config = small_config();
  config["vocab_size"] = 1024;
  runs.write("config.json", config.dump());
  const std::string kimi = (fs::path(MINKE_GOLDEN_DIR) / "tokenizers/kimi").string();
  expect_success(run_program(runs.flags("first", {"--steps", "2", "--tokenizer", kimi})));
  const std::vector<std::string> more = {"--steps", "1",      "--model",
                                         "",        "--init", runs.path("first")};
  expect_success(run_program(runs.flags("second", more)));
  EXPECT_EQ(read_file(runs.path("second/checkpoint/tiktoken.model")),
            read_file(fs::path(kimi) / "tiktoken.model"));
  fs::remove(runs.path("first/checkpoint/tiktoken.model"));
  fs::remove(runs.path("first/checkpoint/checksums.json"));
  expect_fault(run_program(runs.flags("third", more)), "tokenizer.json", "tiktoken.model",
               "--tokenizer");
}

// A rate of 0 leaves the weights as they were read: to the last bit of FP32.
TEST(Train, ARunGoesOnFromAveragedWeights) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("first", {"--steps", "20", "--ema", "0.9"})));
  std::vector<std::string> flags = runs.flags(
      "second", {"--steps", "1", "--lr", "0", "--model", "", "--init", runs.path("first")});
  flags.emplace_back("--init-ema");
  expect_success(run_program(flags));
  const checkpoint::SafetensorsFile averages(runs.path("first/checkpoint/ema.safetensors"));
  const checkpoint::SafetensorsFile state(runs.path("second/checkpoint/optimizer.safetensors"));
  int compared = 0;
  for (const auto& [name, stored] : averages.tensors()) {
    if (!name.ends_with(".weight")) continue;
    EXPECT_TRUE(std::ranges::equal(averages.tensor(name).span<float>(),
                                   state.tensor("master." + name).span<float>()))
        << name;
    ++compared;
  }
  EXPECT_GT(compared, 20);

  std::vector<std::string> none =
      runs.flags("third", {"--steps", "1", "--model", "", "--init", runs.path("second")});
  none.emplace_back("--init-ema");
  expect_fault(run_program(none), "no averaged weights");
  none = runs.flags("third", {"--steps", "1"});
  none.emplace_back("--init-ema");
  expect_fault(run_program(none), "--init-ema", "--init");
}

// By YaRN, twice; a run of the longer context stops and goes on like any other.
TEST(Train, AContextIsExtended) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("first", {"--steps", "4"})));
  const auto extended = [&](const std::string& from, const std::string& out,
                            const std::string& factor, const std::string& seq) {
    return runs.flags(out, {"--steps", "4", "--model", "", "--init", runs.path(from),
                            "--extend-context", factor, "--seq", seq, "--ema", "0.9"});
  };
  const auto config_of = [&](const std::string& run) {
    return nlohmann::json::parse(read_file(runs.path(run + "/checkpoint/config.json")));
  };
  expect_success(run_program(extended("first", "second", "8x", "128")));
  const nlohmann::json yarn = {{"type", "yarn"},     {"factor", 8},
                               {"beta_fast", 32},    {"original_max_position_embeddings", 16},
                               {"beta_slow", 1},     {"mscale", 1},
                               {"mscale_all_dim", 1}};
  EXPECT_EQ(config_of("second")["rope_scaling"], yarn);
  EXPECT_EQ(config_of("second")["max_position_embeddings"], 128);

  auto flags = extended("second", "third", "2x", "200");
  expect_success(run_program(flags));
  flags = extended("second", "stopped", "2x", "200");
  flags.insert(flags.end(), {"--stop-at", "2"});
  expect_success(run_program(flags));
  expect_success(run_program({"train", "--resume", runs.path("stopped"), "--no-report"}));
  EXPECT_TRUE(runs.state("third") == runs.state("stopped"));
  for (const char* run : {"third", "stopped"}) {
    EXPECT_EQ(config_of(run)["rope_scaling"]["factor"], 16);
    EXPECT_EQ(config_of(run)["rope_scaling"]["original_max_position_embeddings"], 16);
    EXPECT_EQ(config_of(run)["max_position_embeddings"], 256);
  }
  expect_success(
      run_program({"generate", runs.path("third"), "--prompt", "Anne", "--max-tokens", "4"}));

  expect_fault(run_program(extended("second", "bad", "2x", "257")), "max_position_embeddings");
  expect_fault(run_program(extended("second", "bad", "half", "16")), "--extend-context half", "4x");
  expect_fault(run_program(runs.flags("bad", {"--steps", "4", "--extend-context", "4x"})),
               "--init");
}

// A model that read text is taught to answer: always the same question, and always the same way.
TEST(Train, AModelIsTaughtToAnswer) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("first", {"--steps", "40"})));
  std::string talks;
  for (int i = 0; i < 40; ++i) {
    talks += R"({"messages": [{"role": "user", "content": "Who?"}, )"
             R"({"role": "assistant", "content": "Lady Russell."}]})"
             "\n";
  }
  runs.write("talks.jsonl", talks);
  auto flags = runs.flags("talks", {"--steps", "150", "--model", "", "--init", runs.path("first"),
                                    "--data", runs.path("talks.jsonl"), "--lr", "0.02"});
  flags.emplace_back("--mask-documents");
  expect_success(run_program(flags));
  const Said said = run_program(
      {"chat", runs.path("talks"), "--temperature", "0", "--max-tokens", "30"}, "Who?\n");
  expect_success(said);
  EXPECT_THAT(said.out, HasSubstr("Lady Russell."));
  EXPECT_EQ(said.err.find("never tuned"), std::string::npos) << said.err;
  // How well it reads conversations is how well it says what the assistant says, whoever asks.
  const Said measured =
      run_program({"eval", runs.path("talks"), "--data", runs.path("talks.jsonl")});
  expect_success(measured);
  EXPECT_THAT(measured.out, HasSubstr("520 bytes of what the assistant says"));
  for (const bool named : {true, false}) {
    const std::string out = named ? "named" : "drawn";
    auto more = runs.flags(out, {"--steps", "2", "--model", "", "--init", runs.path("first"),
                                 "--data", runs.path("talks.jsonl")});
    const auto at = std::ranges::find(more, "--valid");
    if (named) {
      runs.write("held-out.jsonl", talks);
      *std::next(at) = runs.path("held-out.jsonl");
    } else {
      more.erase(at, at + 2);
    }
    expect_success(run_program(more));
    const auto events = read_file(runs.path(out + "/metrics.jsonl"));
    // All of the forty, or two of them; each has the end besides.
    EXPECT_THAT(events, HasSubstr(fmt::format(R"("bytes":{})", 13 * (named ? 40 : 2))));
  }
}

// What goes on is the FP32 masters; what others read is FP8, as `minke quantize` writes it.
TEST(Train, CheckpointsInFp8GoOnAsIfThereHadBeenNone) {
  const SmallRuns runs;
  for (const char* precision : {"bf16", "fp8"}) {
    const std::string whole = fmt::format("whole-{}", precision),
                      stopped = fmt::format("stopped-{}", precision);
    std::vector<std::string> flags = {"--steps", "6",           "--save-format",
                                      "fp8",     "--precision", precision};
    expect_success(run_program(runs.flags(whole, flags)));
    flags.insert(flags.end(), {"--stop-at", "3"});
    expect_success(run_program(runs.flags(stopped, flags)));
    expect_success(run_program({"train", "--resume", runs.path(stopped), "--no-report"}));
    EXPECT_EQ(runs.state(stopped), runs.state(whole));
    const std::string weights = read_file(runs.path(whole + "/checkpoint/model.safetensors"));
    EXPECT_THAT(weights, testing::HasSubstr("o_proj.weight_scale_inv"));
    EXPECT_THAT(read_file(runs.path(whole + "/checkpoint/config.json")),
                testing::HasSubstr("weight_block_size"));
    expect_success(run_program({"eval", runs.path(whole), "--data", runs.path("valid.txt")}));
  }
  // What is begun from it is saved as it asks for.
  expect_success(run_program(
      runs.flags("again", {"--init", runs.path("whole-fp8"), "--model", "", "--steps", "2"})));
  EXPECT_THAT(read_file(runs.path("again/checkpoint/config.json")),
              testing::Not(testing::HasSubstr("weight_block_size")));
}

}  // namespace
}  // namespace minke
