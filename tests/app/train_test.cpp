// minke train as a user runs it: runs that stop, are killed and go on; bad input.
#include <unistd.h>

#include <chrono>
#include <functional>
#include <set>
#include <thread>

#include "app/small_run.h"
#include "base/small_disk.h"
#include "ops/isa.h"

namespace minke {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

void wait_until(const std::function<bool()>& done) {
  for (int i = 0; i < 3000 && !done(); ++i) std::this_thread::sleep_for(milliseconds(10));
  ASSERT_TRUE(done()) << "half a minute has passed";
}

int64_t lines_of(const fs::path& path) {
  if (!fs::exists(path)) return 0;
  const std::string text = read_file(path);
  return std::ranges::count(text, '\n');
}

nlohmann::json state_of(const SmallRuns& runs, const std::string& out) {
  return nlohmann::json::parse(read_file(runs.path(out + "/checkpoint/trainer_state.json")));
}

const std::vector<std::string> kWholeRecipe = {"--batch-start",
                                               "2",
                                               "--batch-ramp",
                                               "0.4",
                                               "--constant",
                                               "0.2",
                                               "--hold",
                                               "0.2",
                                               "--final",
                                               "0.2",
                                               "--final-lr",
                                               "0.001",
                                               "--min-lr",
                                               "0.002",
                                               "--ema",
                                               "0.8",
                                               "--mtp-lambda-until",
                                               "0.5",
                                               "--gamma-until",
                                               "0.7",
                                               "--moments",
                                               "bf16-random",
                                               "--fim",
                                               "0.5",
                                               "--split-punctuation",
                                               "0.5"};

class TrainOnEveryIsa : public testing::TestWithParam<ops::Isa> {
 protected:
  void SetUp() override {
    ::setenv("MINKE_ISA", std::string(ops::isa_name(GetParam())).c_str(), 1);
  }
  void TearDown() override { ::unsetenv("MINKE_ISA"); }
};

// Trap 12: train(2N) = train(N) + resume(N), byte for byte, wherever it stops: within the warm-up,
// within an epoch (the text has less than a thousand tokens, a run reads 12 * 4 * 16), at its end;
// and for any number of threads.
TEST_P(TrainOnEveryIsa, Trap12AResumedRunIsTheSameBytesAsOneThatNeverStopped) {
  for (const char* precision : {"fp32", "bf16", "fp8"}) {
    const SmallRuns runs;
    const bool fp32 = std::string_view(precision) == "fp32";
    std::vector<std::string> common = {"--steps", "12", "--precision", precision};
    // All that a recipe can have, in one of the two.
    if (!fp32) common.insert(common.end(), kWholeRecipe.begin(), kWholeRecipe.end());
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.end(), common.begin(), common.end());
      return more;
    };
    expect_success(run_program(runs.flags("whole", with({"--threads", "1"}))));
    const std::string whole = runs.state("whole");
    for (const char* stop : {fp32 ? "1" : "3", fp32 ? "11" : "7"}) {
      const std::string out = std::string("stopped") + stop;
      expect_success(run_program(runs.flags(out, with({"--stop-at", stop, "--threads", "2"}))));
      EXPECT_NE(runs.state(out), whole);
      expect_success(run_program({"train", "--resume", runs.path(out), "--no-report"}));
      EXPECT_TRUE(runs.state(out) == whole) << precision << ", stopped after " << stop;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, TrainOnEveryIsa, testing::ValuesIn(ops::available_isas()),
                         [](const auto& isa) { return std::string(ops::isa_name(isa.param)); });

TEST(Train, AnotherInstructionSetIsWarnedOf) {
  const SmallRuns runs;
  ::setenv("MINKE_ISA", "scalar", 1);
  expect_success(run_program(runs.flags("run", {"--steps", "4", "--stop-at", "2"})));
  ::unsetenv("MINKE_ISA");
  const Said said = run_program({"train", "--resume", runs.path("run"), "--no-report"});
  expect_success(said);
  if (ops::isa() == ops::Isa::kScalar) GTEST_SKIP() << "there is no other here";
  EXPECT_THAT(said.err, HasSubstr("bytes will differ"));
}

TEST(Train, AnInterruptSavesAndTheRunGoesOnAsIfThereHadBeenNone) {
  const SmallRuns runs;
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string out = signal == SIGINT ? "int" : "term";
    Program program(runs.flags(out, {"--steps", "100000", "--save-every", "100000"}));
    ASSERT_NO_FATAL_FAILURE(
        wait_until([&] { return lines_of(runs.path(out + "/metrics.jsonl")) > 5; }));
    program.send(signal);
    const Said said = program.wait();
    expect_success(said);
    EXPECT_THAT(said.err, HasSubstr("minke train --resume"));
    const int64_t done = state_of(runs, out)["step"];
    const std::string stop = std::to_string(done + 3);
    expect_success(run_program({"train", "--resume", runs.path(out), "--stop-at", stop}));
    expect_success(run_program(runs.flags(out + "2", {"--steps", "100000", "--stop-at", stop})));
    EXPECT_TRUE(runs.state(out) == runs.state(out + "2"));
  }
}

// Within the timing that --minutes begins with, or soon after.
TEST(Train, AnInterruptBeforeTheFirstStepLeavesARunThatCanGoOn) {
  const SmallRuns runs;
  Program program(runs.flags("run", {"--minutes", "600", "--save-every", "100000000"}));
  ASSERT_NO_FATAL_FAILURE(
      wait_until([&] { return fs::exists(runs.path("run/tokens/manifest.json")); }));
  program.send(SIGINT);
  expect_success(program.wait());
  const std::string stop = std::to_string(state_of(runs, "run")["step"].get<int64_t>() + 1);
  expect_success(run_program({"train", "--resume", runs.path("run"), "--stop-at", stop}));
}

TEST(Train, KilledAtAnyMomentOfSavingItGoesOnFromTheLastGoodCheckpoint) {
  const SmallRuns runs;
  const std::string metrics = runs.path("run/metrics.jsonl");
  const fs::path state = runs.path("run/checkpoint/trainer_state.json");
  {
    Program program(runs.flags("run", {"--steps", "100000", "--save-every", "1"}));
    ASSERT_NO_FATAL_FAILURE(wait_until([&] { return fs::exists(state); }));
    program.send(SIGKILL);
    EXPECT_EQ(program.wait().exit_code, 128 + SIGKILL);
  }
  Rng rng(5);
  for (int i = 0; i < 8; ++i) {
    Program program({"train", "--resume", runs.path("run"), "--save-every", "1"});
    const int64_t before = lines_of(metrics);
    ASSERT_NO_FATAL_FAILURE(wait_until([&] { return lines_of(metrics) > before + 2; }));
    std::this_thread::sleep_for(std::chrono::microseconds(rng.below(30'000)));
    program.send(SIGKILL);
    const Said said = program.wait();
    EXPECT_EQ(said.exit_code, 128 + SIGKILL) << said.err;
  }
  // Where the kill left the folder between two renames, the next start puts it right.
  const Said last =
      run_program({"train", "--resume", runs.path("run"), "--steps", "7", "--stop-at", "1"});
  EXPECT_EQ(last.exit_code, 2);  // --steps is the run's own
  expect_success(run_program({"train", "--resume", runs.path("run"), "--stop-at", "1"}));
  const int64_t done = state_of(runs, "run")["step"];
  EXPECT_GT(done, 8);
  const std::string stop = std::to_string(done + 2);
  expect_success(run_program({"train", "--resume", runs.path("run"), "--stop-at", stop}));
  expect_success(run_program(runs.flags("same", {"--steps", "100000", "--stop-at", stop})));
  EXPECT_TRUE(runs.state("run") == runs.state("same"));
}

// Every step of a run is a place to stop at: in warm-up and out of it, within an epoch and at its
// end, while the batch grows, before and after gamma and lambda change, at a spike and after it.
TEST(TrainSlow, Trap12StoppedAfterEveryStepItIsTheSameRun) {
  const SmallRuns runs;
  std::vector<std::string> recipe = kWholeRecipe;
  // So slow that the loss stays where it is, and varies: some steps are spikes.
  recipe.insert(recipe.end(),
                {"--steps", "32", "--batch-ramp", "0.1", "--on-spike", "skip", "--spike-z", "0.3",
                 "--lr", "1e-5", "--min-lr", "5e-6", "--final-lr", "2e-6"});
  expect_success(run_program(runs.flags("whole", recipe)));
  const auto events = read_file(runs.path("whole/metrics.jsonl"));
  EXPECT_NE(events.find("\"event\":\"spike\""), std::string::npos);
  auto first = recipe;
  first.insert(first.end(), {"--stop-at", "1"});
  expect_success(run_program(runs.flags("pieces", first)));
  for (int step = 2; step <= 32; ++step) {
    const char* threads = step % 2 == 0 ? "1" : "2";
    expect_success(run_program({"train", "--resume", runs.path("pieces"), "--no-report",
                                "--stop-at", std::to_string(step), "--threads", threads}));
    ASSERT_EQ(state_of(runs, "pieces")["step"], step);
  }
  EXPECT_TRUE(runs.state("pieces") == runs.state("whole"));
}

// At any moment: while it starts, computes, saves, keeps a checkpoint.
TEST(TrainSlow, KilledAtFiftyRandomMomentsItIsTheSameRun) {
  const SmallRuns runs;
  std::vector<std::string> recipe = kWholeRecipe;
  recipe.insert(recipe.end(), {"--steps", "400"});
  auto first = recipe;
  first.insert(first.end(), {"--stop-at", "1"});
  expect_success(run_program(runs.flags("run", first)));
  Rng rng(11);
  int killed = 0;
  for (int i = 0; i < 50; ++i) {
    Program program({"train", "--resume", runs.path("run"), "--save-every", "1", "--keep-last", "2",
                     "--stop-at", "395"});
    std::this_thread::sleep_for(std::chrono::microseconds(rng.below(200'000)));
    program.send(SIGKILL);
    killed += program.wait().exit_code == 128 + SIGKILL ? 1 : 0;
  }
  EXPECT_GT(killed, 25);
  const int64_t done = state_of(runs, "run")["step"];
  const std::string stop = std::to_string(done + 2);
  expect_success(run_program({"train", "--resume", runs.path("run"), "--stop-at", stop}));
  recipe.insert(recipe.end(), {"--stop-at", stop});
  expect_success(run_program(runs.flags("same", recipe)));
  EXPECT_TRUE(runs.state("run") == runs.state("same"));
}

TEST(Train, ASpikeStopsTheRunWhichGoesOnAsItIsTold) {
  const SmallRuns runs;
  const std::vector<std::string> common = {"--steps", "60", "--spike-z", "1"};
  const auto with = [&](const char* action) {
    auto flags = common;
    flags.insert(flags.end(), {"--on-spike", action});
    return flags;
  };
  const Said stopped = run_program(runs.flags("stop", with("stop")));
  expect_fault(stopped, "--on-spike", "--resume");
  const int64_t done = state_of(runs, "stop")["step"];
  EXPECT_GE(done, 16);
  EXPECT_LT(done, 60);
  // The same spike again; then it is skipped, as in a run that always does.
  expect_fault(run_program({"train", "--resume", runs.path("stop")}), "--on-spike");
  const std::string later = std::to_string(done + 3);
  expect_success(run_program(
      {"train", "--resume", runs.path("stop"), "--on-spike", "skip", "--stop-at", later}));
  auto skips = with("skip");
  skips.insert(skips.end(), {"--stop-at", later});
  expect_success(run_program(runs.flags("skip", skips)));
  EXPECT_TRUE(runs.state("stop") == runs.state("skip"));
}

TEST(Train, ARollbackGoesOnBehindTheSpike) {
  const SmallRuns runs;
  const Said said =
      run_program(runs.flags("run", {"--steps", "40", "--spike-z", "1", "--lr", "1e-4",
                                     "--on-spike", "rollback", "--save-every", "10"}));
  std::istringstream lines(read_file(runs.path("run/metrics.jsonl")));
  int rollbacks = 0, last = 0;
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] == "spike") {
      if (event["action"] == "stop") continue;  // it did not mend
      ++rollbacks;
      EXPECT_EQ(event["action"], "rollback");
      EXPECT_EQ(event["step"].get<int>() % 10, 0);
      EXPECT_GT(event["at"], event["step"]);
    } else if (event["event"] == "step") {
      EXPECT_EQ(event["step"], ++last);  // each once: what was rolled back is gone
    }
  }
  EXPECT_GT(rollbacks, 0);
  EXPECT_GT(state_of(runs, "run")["rows_passed_over"], 0);
  // It mends, or says that it does not.
  if (said.exit_code != 0) expect_fault(said, "rollback");
}

TEST(Train, CheckpointsAreKeptAsAsked) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "21", "--save-every", "3", "--keep-last",
                                                "2", "--keep-every", "7", "--eval-every", "5"})));
  std::set<std::string> kept;
  for (const auto& entry : fs::directory_iterator(runs.path("run/checkpoints"))) {
    kept.insert(entry.path().filename().string());
  }
  // 21 is the last, 18 and 15 the two before it; 7, 14 and 21 are for good.
  EXPECT_THAT(kept, testing::ElementsAre("step-000000007", "step-000000014", "step-000000015",
                                         "step-000000018", "step-000000021"));
  const Said said = run_program(
      {"eval", runs.path("run/checkpoints/step-000000007"), "--data", runs.path("valid.txt")});
  expect_success(said);
  EXPECT_FALSE(fs::exists(runs.path("run/best")));

  std::vector<std::string> best = runs.flags(
      "best", {"--steps", "60", "--eval-every", "6", "--lr", "0.05", "--min-lr", "0.05"});
  best.emplace_back("--keep-best");
  expect_success(run_program(best));
  double least = 1e9;
  int64_t at = 0;
  std::istringstream lines(read_file(runs.path("best/metrics.jsonl")));
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] != "eval" || event["whole"] || event["bits_per_byte"] >= least) continue;
    least = event["bits_per_byte"];
    at = event["step"];
  }
  EXPECT_EQ(nlohmann::json::parse(read_file(runs.path("best/best/trainer_state.json")))["step"],
            at);
}

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
    if (key == "minke" || key == "seq") continue;
    auto older = state;
    older.erase(key);
    runs.write(name, older.dump());
    expect_fault(resume(), "trainer_state.json", "\"" + key + "\"", "another version", "0.1.0",
                 "--init");
    older[key] = nlohmann::json::object();
    runs.write(name, older.dump());
    expect_fault(resume(), "damaged");
  }
  runs.write(name, R"({"step": 3})");
  expect_fault(resume(), "an earlier one");
  expect_success(run_program({"eval", runs.path("run"), "--data", runs.path("valid.txt")}));
  expect_success(
      run_program({"generate", runs.path("run"), "--prompt", "Anne", "--max-tokens", "2"}));
  expect_success(
      run_program(runs.flags("next", {"--steps", "2", "--model", "", "--init", runs.path("run")})));
  runs.write(name, state.dump());
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
  for (const char* line : {"sped = 3", "clip = many", "[train]\nsteps = 3", "clip = [1, 2]"}) {
    runs.write("bad.toml", line);
    expect_fault(run_program(runs.flags("bad", {"--config", runs.path("bad.toml"), "--lr", "1"})),
                 "bad.toml");
  }
}

}  // namespace
}  // namespace minke
