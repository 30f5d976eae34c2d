// minke train on what is wrong: text, settings, folders, disks, runs of others.
#include "app/small_run.h"
#include "base/small_disk.h"

namespace minke {
namespace {

TEST(Train, ALockedFolderIsRefusedAndTheRunInItGoesOn) {
  const SmallRuns runs;
  Program program(runs.flags("run", {"--steps", "100000"}));
  ASSERT_NO_FATAL_FAILURE(wait_until([&] { return lines_of(runs.path("run/metrics.jsonl")) > 1; }));
  expect_fault(run_program({"train", "--resume", runs.path("run")}), runs.path("run"), "another");
  program.send(SIGINT);
  expect_success(program.wait());
}

TEST(Train, AFullDiskLosesNothing) {
  const SmallRuns runs;
  const SmallDisk disk(size_t{48} << 20);
  if (!disk.mounted()) GTEST_SKIP() << disk.why_not();
  Program program(runs.flags(
      "", {"--steps", "100000", "--save-every", "40", "--out", (disk / "run").string()}));
  const fs::path state = disk / "run/checkpoint/trainer_state.json";
  ASSERT_NO_FATAL_FAILURE(wait_until([&] { return fs::exists(state); }));
  {
    std::ofstream filler(disk / "filler");
    const std::string block(1 << 16, 'x');
    while (filler.write(block.data(), std::ssize(block)).flush()) {
    }
  }
  expect_fault(program.wait(), disk.path().string());
  expect_fault(run_program({"train", "--resume", (disk / "run").string()}), "disk");
  fs::remove(disk / "filler");
  const auto step = nlohmann::json::parse(read_file(state))["step"].get<int64_t>();
  EXPECT_EQ(step % 40, 0);
  const Said said = run_program(
      {"train", "--resume", (disk / "run").string(), "--stop-at", std::to_string(step + 1)});
  expect_success(said);
}

TEST(Train, BadTextIsNamed) {
  const SmallRuns runs;
  const auto with_data = [&](const std::string& name) {
    return run_program(runs.flags("run", {"--steps", "2", "--data", runs.path(name)}));
  };
  expect_fault(with_data("nowhere"), "nowhere");
  fs::create_directories(runs.path("folder"));
  expect_fault(with_data("folder"), "folder");
  runs.write("empty.txt", "");
  expect_fault(with_data("empty.txt"), "empty.txt", "empty");
  runs.write("latin.txt", small_text(1, 3) + "na\xefve");
  expect_fault(with_data("latin.txt"), "latin.txt", "UTF-8",
               std::to_string(small_text(1, 3).size() + 2));
  runs.write("odd.doc", "text");
  expect_fault(with_data("odd.doc"), "odd.doc", ".txt");
  runs.write("lines.jsonl", "{\"text\": \"good\"}\n{\"body\": \"bad\"}\n");
  expect_fault(with_data("lines.jsonl"), "lines.jsonl", "2", "text");
  expect_fault(with_data("valid.txt"), "valid.txt", "both --data and --valid");
  EXPECT_FALSE(fs::exists(runs.path("run/checkpoint")));
}

TEST(Train, BadSettingsAreNamed) {
  const SmallRuns runs;
  const auto with = [&](const std::vector<std::string>& more) {
    return run_program(runs.flags("run", more));
  };
  expect_fault(with({}), "--steps", "--minutes");
  expect_fault(with({"--steps", "2", "--minutes", "1"}), "--minutes");
  expect_fault(with({"--steps", "-2"}), "--steps");
  expect_fault(with({"--steps", "2", "--clip", "nan"}), "--clip");
  expect_fault(with({"--steps", "2", "--precision", "fp7"}), "fp7");
  expect_fault(with({"--steps", "2", "--sped", "3"}), "--sped");
  expect_fault(with({"--steps", "2", "--batch", "1000000", "--seq", "60"}), "memory");
  expect_fault(with({"--steps", "2", "--seq", "65"}), "max_position_embeddings");
  expect_fault(with({"--steps", "2", "--vocab", "5"}), "5");
  expect_fault(with({"--steps", "2", "--model", "", "--size", "huge"}), "huge", "nano");
  EXPECT_FALSE(fs::exists(runs.path("run/checkpoint")));

  const auto with_config = [&](const char* key, const nlohmann::json& value) {
    auto config = small_config();
    config[key] = value;
    runs.write("bad.json", config.dump());
    return run_program(runs.flags("run", {"--steps", "2", "--model", runs.path("bad.json")}));
  };
  expect_fault(with_config("scoring_func", "tanh"), "bad.json", "tanh");
  expect_fault(with_config("n_routed_experts", 9), "n_routed_experts", "n_group");
  expect_fault(with_config("vocab_size", 300), "vocab_size");
  expect_fault(with_config("hidden_size", -4), "hidden_size");
  expect_fault(with_config("num_experts_per_tok", 9), "num_experts_per_tok");
}

// What is asked for and cannot be is never passed over in silence.
TEST(Train, SettingsThatDoNothingAreRefused) {
  const SmallRuns runs;
  const std::vector<std::vector<std::string>> idle = {
      {"--size", "nano"},      {"--valid-fraction", "0.1"},   {"--fp8-scales", "fp32"},
      {"--fp8-wgrad", "both"}, {"--accumulate", "fp32"},      {"--promote", "128"},
      {"--final-lr", "1e-4"},  {"--mtp-lambda-later", "0.1"}, {"--spike-z", "5"}};
  for (std::vector<std::string> flags : idle) {
    const std::string flag = flags[0];
    flags.insert(flags.end(), {"--steps", "2"});
    expect_fault(run_program(runs.flags("run", flags)), flag + " does nothing");
  }
  EXPECT_FALSE(fs::exists(runs.path("run")));
  expect_success(run_program(runs.flags("run", {"--steps", "4", "--stop-at", "2"})));
  expect_fault(run_program({"train", "--resume", runs.path("run"), "--spike-z", "5"}),
               "--spike-z does nothing");
  expect_success(run_program({"train", "--resume", runs.path("run"), "--no-report", "--spike-z",
                              "50", "--on-spike", "skip"}));
  auto init = runs.flags("next", {"--steps", "2", "--model", "", "--init", runs.path("run")});
  init.insert(init.end(), {"--vocab", "300"});
  expect_fault(run_program(init), "--vocab does nothing");
}

TEST(Train, LinesWithoutTextAreCountedOnce) {
  const SmallRuns runs;
  std::string lines;
  for (int i = 0; i < 30; ++i) {
    lines += nlohmann::json{{"text", small_text(static_cast<uint64_t>(i), 8)}}.dump() + "\n\n";
  }
  runs.write("lines.jsonl", lines);
  const Said said =
      run_program(runs.flags("run", {"--steps", "2", "--data", runs.path("lines.jsonl")}));
  expect_success(said);
  const std::string warning = "lines.jsonl: line 2: no text there; 30 such lines";
  EXPECT_THAT(said.err, testing::HasSubstr(warning));
  EXPECT_EQ(said.err.find(warning), said.err.rfind(warning));
}

TEST(Train, DamagedRecordsOfARunAreNamed) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "6", "--stop-at", "3"})));
  const auto resume = [&] { return run_program({"train", "--resume", runs.path("run")}); };
  const std::string metrics = "run/metrics.jsonl", good = read_file(runs.path(metrics));
  const std::string line = fmt::format("metrics.jsonl:{}", std::ranges::count(good, '\n') + 1);
  for (const char* bad : {R"({"event":5,"step":1})", R"({"event":"step","step":"x"})",
                          R"({"event":"step"})", R"({"event":"step","step":1,"seconds":"x"})",
                          R"({"event":"step","step":1,"clipped":3})", "[1]"}) {
    runs.write(metrics, good + bad + "\n");
    expect_fault(resume(), line);
  }
  runs.write(metrics, good);
  const std::string manifest = read_file(runs.path("run/manifest.json"));
  for (const char* bad : {R"({"flags":{}})", R"({"flags":{"data":[]}})", R"({"flags":{"data":3}})",
                          R"({"flags":{"data":["x"],"steps":-1}})", "{}"}) {
    runs.write("run/manifest.json", bad);
    expect_fault(resume(), "manifest.json");
  }
  runs.write("run/manifest.json", manifest);
  expect_success(run_program({"train", "--resume", runs.path("run"), "--no-report"}));
}

// A start that fails may leave a tokenizer; the next is of its own flags all the same.
TEST(Train, AStartAfterOneThatFailedTakesNothingFromIt) {
  const SmallRuns runs;
  const std::vector<std::string> steps = {"--steps", "4", "--stop-at", "2"};
  auto too_large = steps;
  too_large.insert(too_large.end(), {"--batch", "1000000"});
  auto other_vocabulary = too_large;
  other_vocabulary.insert(other_vocabulary.end(), {"--vocab", "300"});
  expect_fault(run_program(runs.flags("run", other_vocabulary)), "memory");
  expect_success(run_program(runs.flags("run", steps)));
  expect_success(run_program(runs.flags("clean", steps)));
  EXPECT_TRUE(runs.state("run") == runs.state("clean"));
}

TEST(Train, AFolderThatCannotBeWrittenIsNamed) {
  const SmallRuns runs;
  // Below a file.
  expect_fault(run_program(runs.flags("valid.txt/run", {"--steps", "2"})), "valid.txt");
  SmallDisk disk(1 << 20);
  if (!disk.mounted()) GTEST_SKIP() << disk.why_not();
  disk.make_read_only();
  expect_fault(run_program(runs.flags("", {"--steps", "2", "--out", (disk / "run").string()})),
               disk.path().string());
}

TEST(Train, AFolderThatHoldsARunIsNotTrainedOver) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "4", "--stop-at", "2"})));
  const std::string before = runs.state("run");
  expect_fault(run_program(runs.flags("run", {"--steps", "4"})), "--resume");
  EXPECT_TRUE(runs.state("run") == before);
  expect_fault(run_program({"train", "--resume", runs.path("text")}), "no run");
}

TEST(Train, ResumeRefusesWhatIsOfAnotherRun) {
  const SmallRuns runs;
  const std::vector<std::string> half = {"--steps", "6", "--stop-at", "3"};
  expect_success(run_program(runs.flags("run", half)));
  auto other_seed = half;
  other_seed.insert(other_seed.end(), {"--seed", "2"});
  expect_success(run_program(runs.flags("other", other_seed)));
  const std::string model = "/checkpoint/model.safetensors", config = "/checkpoint/config.json";
  const auto resume = [&] { return run_program({"train", "--resume", runs.path("run")}); };

  const std::string weights = read_file(runs.path("run" + model));
  runs.write("run" + model, read_file(runs.path("other" + model)));
  expect_fault(resume(), "model.safetensors", "not as it was saved");
  runs.write("run" + model, weights);
  // What is found without checksums too.
  fs::remove(runs.path("run/checkpoint/checksums.json"));
  runs.write("run" + model, read_file(runs.path("other" + model)));
  expect_fault(resume(), "does not belong");
  runs.write("run" + model, weights.substr(0, weights.size() - 10));
  expect_fault(resume(), "model.safetensors");
  std::string renamed = weights;
  renamed.replace(renamed.find("model.norm.weight"), 17, "model.norm.weighs");
  runs.write("run" + model, renamed);
  expect_fault(resume(), "model.norm.weigh");
  runs.write("run" + model, weights);

  const std::string good = read_file(runs.path("run" + config));
  auto changed = nlohmann::json::parse(good);
  changed["moe_intermediate_size"] = 24;
  runs.write("run" + config, changed.dump());
  expect_fault(resume(), "experts");
  runs.write("run" + config, good);

  const std::string text = read_file(runs.path("text/1.txt"));
  runs.write("text/1.txt", text + "More.\n");
  expect_fault(resume(), "text changed");
  runs.write("text/1.txt", text);
  expect_success(run_program({"train", "--resume", runs.path("run"), "--no-report"}));
}

// What a version of minke did not write yet is named, and the model is read all the same.
TEST(Train, ACheckpointOfAnotherVersionIsNoRunToGoOnWith) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "6", "--stop-at", "3"})));
  const std::string name = "run/checkpoint/trainer_state.json";
  const auto state = state_of(runs, "run");
  fs::remove(runs.path("run/checkpoint/checksums.json"));
  const auto resume = [&] { return run_program({"train", "--resume", runs.path("run")}); };
  for (const auto& [key, value] : state.items()) {
    if (key == "minke" || key == "seq" || key == "updates") continue;
    auto older = state;
    older.erase(key);
    runs.write(name, older.dump());
    expect_fault(resume(), "trainer_state.json", "\"" + key + "\"", "another version", "0.1.0",
                 "--init");
    older[key] = nlohmann::json::object();
    runs.write(name, older.dump());
    expect_fault(resume(), "damaged");
  }
  // Updates were counted later, and were steps before.
  auto older = state;
  older.erase("updates");
  runs.write(name, older.dump());
  expect_success(run_program({"train", "--resume", runs.path("run"), "--stop-at", "4"}));
  EXPECT_EQ(state_of(runs, "run")["updates"], 4);
  fs::remove(runs.path("run/checkpoint/checksums.json"));
  runs.write(name, R"({"step": 3})");
  expect_fault(resume(), "an earlier one");
  expect_success(run_program({"eval", runs.path("run"), "--data", runs.path("valid.txt")}));
  expect_success(
      run_program({"generate", runs.path("run"), "--prompt", "Anne", "--max-tokens", "2"}));
  expect_success(
      run_program(runs.flags("next", {"--steps", "2", "--model", "", "--init", runs.path("run")})));
  auto later = state;
  later["step"] = 4;
  runs.write(name, later.dump());
  expect_success(resume());
}

TEST(Train, FlagsComeFromAFileAndTheLineWins) {
  const SmallRuns runs;
  runs.write("run.toml", fmt::format("data = [\"{}\", \"{}\"]\nvalid = \"{}\"\nmodel = \"{}\"\n"
                                     "vocab = 320\nbatch = 4\nseq = 16\nsteps = 9\nlr = 0.01\n",
                                     runs.path("text/0.txt"), runs.path("text/1.txt"),
                                     runs.path("valid.txt"), runs.path("config.json")));
  expect_success(run_program({"train", "--config", runs.path("run.toml"), "--steps", "3",
                              "--no-report", "--out", runs.path("run")}));
  const auto manifest = nlohmann::json::parse(read_file(runs.path("run/manifest.json")));
  const auto& flags = manifest["flags"];
  EXPECT_EQ(flags["steps"], 3);
  EXPECT_EQ(flags["lr"], 0.01);
  EXPECT_EQ(flags["data"].size(), 2);
  EXPECT_EQ(flags["seq"], 16);
  for (const char* key : {"minke", "commit", "compiler", "instruction_set", "began", "data_hash",
                          "tokenizer_hash", "train_files", "valid_files"}) {
    EXPECT_TRUE(manifest.contains(key)) << key;
  }
  for (const char* line :
       {"sped = 3", "clip = many", "[train]\nsteps = 3", "clip = [1, 2]", "mask-documents = 7"}) {
    runs.write("bad.toml", line);
    expect_fault(run_program(runs.flags("bad", {"--config", runs.path("bad.toml"), "--lr", "1"})),
                 "bad.toml");
  }
}

}  // namespace
}  // namespace minke
