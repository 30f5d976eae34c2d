// minke train as a user runs it: runs that stop, are killed and go on.
#include <chrono>
#include <set>
#include <thread>

#include "app/small_run.h"
#include "poorer_isas.h"

namespace minke {
namespace {

using testing::HasSubstr;

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

// Under sanitizers on the richest set alone.
std::string isa_name(const testing::TestParamInfo<ops::Isa>& isa) {
  return std::string(ops::isa_name(isa.param));
}
INSTANTIATE_TEST_SUITE_P(Isa, TrainOnEveryIsa, testing::Values(ops::available_isas().back()),
                         isa_name);
INSTANTIATE_TEST_SUITE_P(IsasSlow, TrainOnEveryIsa, testing::ValuesIn(poorer_isas()), isa_name);

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
  // Said once the text is read; before that there is no run to go on with.
  ASSERT_NO_FATAL_FAILURE(
      wait_until([&] { return program.err().find("memory: ") != std::string::npos; }));
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

TEST(Train, WhoReadsTheRunMeanwhileNeverDisturbsIt) {
  const SmallRuns runs;
  Program program(runs.flags("run", {"--steps", "100000", "--save-every", "1"}));
  const fs::path state = runs.path("run/checkpoint/trainer_state.json");
  ASSERT_NO_FATAL_FAILURE(wait_until([&] { return fs::exists(state); }));
  for (int i = 0; i < 12; ++i) {
    expect_success(run_program({"inspect", runs.path("run")}));
    expect_success(
        run_program({"generate", runs.path("run"), "--prompt", "Anne", "--max-tokens", "1"}));
  }
  program.send(SIGINT);
  expect_success(program.wait());
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
  recipe.insert(recipe.end(), {"--steps", "20000"});
  auto first = recipe;
  first.insert(first.end(), {"--stop-at", "2", "--save-every", "1", "--keep-last", "2"});
  expect_success(run_program(runs.flags("run", first)));
  Rng rng(11);
  int killed = 0;
  for (int i = 0; i < 50; ++i) {
    Program program({"train", "--resume", runs.path("run"), "--save-every", "1", "--keep-last", "2",
                     "--no-report"});
    std::this_thread::sleep_for(std::chrono::microseconds(rng.below(200'000)));
    program.send(SIGKILL);
    killed += program.wait().exit_code == 128 + SIGKILL ? 1 : 0;
  }
  EXPECT_GT(killed, 25);
  expect_success(run_program({"train", "--resume", runs.path("run"), "--stop-at", "1"}));
  for (const char* folder : {"run", "run/checkpoints"}) {
    for (const auto& entry : fs::directory_iterator(runs.path(folder))) {
      const std::string name = entry.path().filename().string();
      EXPECT_TRUE(name == ".lock" || name[0] != '.') << name;
    }
  }
  const int64_t done = state_of(runs, "run")["step"];
  const std::string stop = std::to_string(done + 2);
  expect_success(run_program({"train", "--resume", runs.path("run"), "--stop-at", stop}));
  recipe.insert(recipe.end(), {"--stop-at", stop});
  expect_success(run_program(runs.flags("same", recipe)));
  EXPECT_TRUE(runs.state("run") == runs.state("same"));
}

TEST(Train, ARunGoesOnWithItsOwnSettingsUnlessOthersAreGiven) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags(
      "run", {"--steps", "16", "--stop-at", "4", "--eval-every", "3", "--sample-every", "2",
              "--sample-prompt", "Anne", "--save-every", "4", "--keep-last", "1"})));
  expect_success(run_program({"train", "--resume", runs.path("run"), "--stop-at", "12"}));
  expect_success(run_program(
      {"train", "--resume", runs.path("run"), "--sample-prompt", "Mary", "--no-report"}));
  std::vector<int> evals, saves;
  std::vector<std::string> prompts;
  std::istringstream lines(read_file(runs.path("run/metrics.jsonl")));
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] == "eval") evals.push_back(event["step"]);
    if (event["event"] == "save") saves.push_back(event["step"]);
    if (event["event"] == "sample") prompts.push_back(event["prompt"]);
  }
  EXPECT_THAT(evals, testing::ElementsAre(3, 6, 9, 12, 15, 16));
  EXPECT_THAT(saves, testing::ElementsAre(4, 8, 12, 16));
  const std::string a = "Anne", m = "Mary";
  EXPECT_THAT(prompts, testing::ElementsAre(a, a, a, a, a, a, m, m));  // 2 to 12; 14, 16
  EXPECT_TRUE(fs::exists(runs.path("run/checkpoints/step-000000012")));
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

TEST(Train, AWarmUpThatIsGivenIsTaken) {
  const SmallRuns runs;
  const auto first_rate = [&](const std::string& out) {
    std::istringstream lines(read_file(runs.path(out + "/metrics.jsonl")));
    for (std::string line; std::getline(lines, line);) {
      const auto event = nlohmann::json::parse(line);
      if (event["event"] == "step") return event["learning_rate"].get<double>();
    }
    return 0.0;
  };
  const auto with = [&](const std::string& out, const char* length, const char* value) {
    return run_program(
        runs.flags(out, {length, value, "--warmup", "8", "--lr", "0.008", "--min-lr", "0.008"}));
  };
  Said said = with("run", "--steps", "10");
  expect_success(said);
  EXPECT_NEAR(first_rate("run"), 0.001, 1e-9);
  EXPECT_THAT(said.err, testing::Not(HasSubstr("--warmup")));
  said = with("short", "--steps", "4");
  expect_success(said);
  EXPECT_NEAR(first_rate("short"), 0.001, 1e-9);
  EXPECT_THAT(said.err, HasSubstr("--warmup 8: longer than the 4 steps"));
  // Who gives minutes knows no number of steps.
  said = with("minutes", "--minutes", "0.00001");
  expect_success(said);
  EXPECT_NEAR(first_rate("minutes"), 0.004, 1e-9);
  EXPECT_THAT(said.err, HasSubstr("--warmup 2"));
  EXPECT_THAT(said.err, HasSubstr("10 steps are the fewest"));
}

TEST(Train, ARunMayHoldNothingOut) {
  const SmallRuns runs;
  auto flags = runs.flags("run", {"--steps", "6", "--valid-fraction", "0"});
  const auto at = std::ranges::find(flags, "--valid");
  flags.erase(at, at + 2);
  flags.erase(std::ranges::find(flags, "--no-report"));
  auto keeps_best = flags;
  keeps_best.emplace_back("--keep-best");
  expect_fault(run_program(keeps_best), "--keep-best", "--valid");
  auto stops = flags;
  stops.insert(stops.end(), {"--stop-at", "3"});
  expect_success(run_program(stops));
  expect_success(run_program({"train", "--resume", runs.path("run")}));
  const std::string metrics = read_file(runs.path("run/metrics.jsonl"));
  EXPECT_THAT(metrics, testing::Not(HasSubstr(R"("event":"eval")")));
  EXPECT_THAT(metrics, HasSubstr(R"("event":"sample")"));
  EXPECT_TRUE(fs::exists(runs.path("run/report.html")));
}

// Of paths that were named in the folder where it began, and of a pattern.
TEST(Train, ARunGoesOnFromAnyFolder) {
  const SmallRuns runs;
  fs::create_directories(runs.path("a [b]"));
  const fs::path before = fs::current_path();
  fs::current_path(runs.path("a [b]"));
  const Said first = run_program(
      runs.flags("run", {"--steps", "6", "--stop-at", "3", "--data", "../text/*.txt", "--valid",
                         "../valid.txt", "--model", "../config.json", "--out", "../run"}));
  fs::current_path(before);
  expect_success(first);
  expect_success(run_program({"train", "--resume", runs.path("run"), "--no-report"}));
}

TEST(Train, ASampleIsTextAlone) {
  const SmallRuns runs;
  for (const char* seed : {"1", "2", "3"}) {
    const std::string out = std::string("run") + seed;
    expect_success(run_program(
        runs.flags(out, {"--steps", "2", "--lr", "0", "--sample-every", "1", "--seed", seed})));
    const std::string metrics = read_file(runs.path(out + "/metrics.jsonl"));
    EXPECT_THAT(metrics, HasSubstr(R"("event":"sample")"));
    EXPECT_THAT(metrics, testing::Not(HasSubstr("<｜")));
  }
}

TEST(Train, AReportIsCalledAsItsFolderIs) {
  const SmallRuns runs;
  auto flags = runs.flags("", {"--steps", "2", "--out", runs.path("first/")});
  std::erase(flags, "--no-report");
  expect_success(run_program(flags));
  EXPECT_THAT(read_file(runs.path("first/report.html")), HasSubstr(R"("title":"minke: first")"));
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
  // A run goes on from an earlier one as if it had never gone further.
  const std::string end = runs.state("run"), earlier = runs.path("run/checkpoints/step-000000015");
  expect_fault(run_program({"train", "--resume", earlier}), earlier,
               "in place of its run's checkpoint/");
  fs::remove_all(runs.path("run/checkpoint"));
  fs::copy(earlier, runs.path("run/checkpoint"));
  expect_success(
      run_program({"train", "--resume", runs.path("run"), "--no-report", "--save-every", "2"}));
  EXPECT_TRUE(runs.state("run") == end);
  EXPECT_TRUE(fs::exists(runs.path("run/checkpoints/step-000000020")));
}

// Also the last step may be the best, and mostly is.
TEST(Train, TheBestIsKept) {
  const SmallRuns runs;
  const auto kept_and_best = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> flags = runs.flags(out, more);
    flags.emplace_back("--keep-best");
    expect_success(run_program(flags));
    double least = 1e9;
    int64_t at = 0;
    std::istringstream lines(read_file(runs.path(out + "/metrics.jsonl")));
    for (std::string line; std::getline(lines, line);) {
      const auto event = nlohmann::json::parse(line);
      if (event["event"] != "eval" || event["whole"] || event["bits_per_byte"] >= least) continue;
      least = event["bits_per_byte"];
      at = event["step"];
    }
    const auto kept = nlohmann::json::parse(read_file(runs.path(out + "/best/trainer_state.json")));
    return std::pair<int64_t, int64_t>{kept["step"], at};
  };
  const auto [kept, best] = kept_and_best(
      "best", {"--steps", "60", "--eval-every", "6", "--lr", "0.05", "--min-lr", "0.05"});
  EXPECT_EQ(kept, best);
  const auto [last, best_of_all] = kept_and_best("last", {"--steps", "30", "--eval-every", "13"});
  EXPECT_EQ(last, 30);
  EXPECT_EQ(best_of_all, 30);
  EXPECT_EQ(read_file(runs.path("last/best/model.safetensors")),
            read_file(runs.path("last/checkpoint/model.safetensors")));
}

// What a kill left of a checkpoint that was being kept has a name that no later one has.
TEST(Train, RestsOfCheckpointsAreRemoved) {
  const SmallRuns runs;
  expect_success(
      run_program(runs.flags("run", {"--steps", "8", "--stop-at", "4", "--keep-last", "1"})));
  const std::vector<std::string> rests = {"run/checkpoints/.step-000000003.minke-new",
                                          "run/.best.minke-new", "run/.tokens.minke-old"};
  for (const std::string& rest : rests) fs::copy(runs.path("run/checkpoint"), runs.path(rest));
  expect_success(run_program({"train", "--resume", runs.path("run"), "--no-report"}));
  for (const std::string& rest : rests) EXPECT_FALSE(fs::exists(runs.path(rest))) << rest;
}

// While the tokenizer is learned; and while the held-out text is read at the end.
TEST(Train, AnInterruptIsHeardBeforeTheFirstStepAndAfterTheLast) {
  const SmallRuns runs;
  fs::create_directories(runs.path("large"));
  runs.write("large/a.txt", small_text(3, 400'000));
  {
    Program program(runs.flags("run", {"--steps", "2", "--data", runs.path("large")}));
    ASSERT_NO_FATAL_FAILURE(wait_until([&] { return fs::exists(runs.path("run/.lock")); }));
    program.send(SIGINT);
    const Said said = program.wait();
    EXPECT_EQ(said.exit_code, 130);
    EXPECT_THAT(said.err, HasSubstr("minke: interrupted"));
  }
  runs.write("long.txt", small_text(4, 100'000));
  Program program(runs.flags("end", {"--steps", "2", "--valid", runs.path("long.txt")}));
  ASSERT_NO_FATAL_FAILURE(wait_until([&] {
    const fs::path metrics = runs.path("end/metrics.jsonl");
    return fs::exists(metrics) && read_file(metrics).find("\"save\"") != std::string::npos;
  }));
  program.send(SIGINT);
  const Said said = program.wait();
  expect_success(said);
  EXPECT_THAT(said.err, HasSubstr("minke train --resume"));
  EXPECT_EQ(read_file(runs.path("end/metrics.jsonl")).find(R"("whole":true)"), std::string::npos);
}

}  // namespace
}  // namespace minke
