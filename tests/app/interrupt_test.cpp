// What Ctrl-C leaves of commands of whose work no half is worth keeping: nothing.
#include <cstdlib>

#include "app/small_model.h"
#include "checkpoint/hf_config.h"
#include "study/synthetic_model.h"

namespace minke {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(folder)) out.push_back(entry.path().filename());
  return out;
}

// Until a name that begins so is in the folder; false when none is for a long time.
bool begins(const fs::path& folder, const std::string& begin) {
  for (int i = 0; i < 30'000; ++i) {
    for (const std::string& name : names_in(folder)) {
      if (name.starts_with(begin)) return true;
    }
    ::usleep(1000);
  }
  return false;
}

class Interrupted : public SmallModel {
 protected:
  // One layer of 0.3 GB, with a tokenizer: what takes a while to read and write.
  static void SetUpTestSuite() {
    SmallModel::SetUpTestSuite();
    folder = new TemporaryFolder;
    checkpoint::HfConfig config =
        checkpoint::read_config(std::string(MINKE_SOURCE_DIR) + "/configs/bench/medium.json");
    config.model.vocab_size = 320;
    config.model.num_hidden_layers = 1;
    config.model.q_lora_rank = 256;
    config.model.first_k_dense_replace = 0;
    fs::create_directory(*folder / "model");
    study::write_synthetic_model(*folder / "model", config);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy(fs::path(run()) / "checkpoint" / name, *folder / "model" / name);
    }
  }
  static void TearDownTestSuite() {
    delete folder;
    SmallModel::TearDownTestSuite();
  }
  static inline TemporaryFolder* folder = nullptr;

  // Ends the command once its unfinished output is in `where`, of which nothing must stay.
  static void expect_nothing_left(const std::vector<std::string>& arguments, const fs::path& where,
                                  const std::string& unfinished) {
    constexpr int kTries = 20;  // where others hold this process up, the work is done before
    for (int i = 0; i < kTries; ++i) {
      Program program(arguments);
      ASSERT_TRUE(begins(where, unfinished));
      program.send(SIGINT);
      const Said said = program.wait();
      if (said.exit_code == 130) {
        EXPECT_THAT(said.err, HasSubstr("removing what is half done"));
        EXPECT_THAT(names_in(where), IsEmpty());
        return;
      }
      ASSERT_EQ(said.exit_code, 0) << said.err;
      for (const std::string& name : names_in(where)) fs::remove_all(where / name);
    }
    FAIL() << "always done before it could be interrupted";
  }
};

TEST_F(Interrupted, QuantisingLeavesNothing) {
  const TemporaryFolder out;
  expect_nothing_left({"quantize", (*folder / "model").string(), "--out", (out / "fp8").string()},
                      out.path(), ".fp8");
}

TEST_F(Interrupted, ExportingLeavesNothing) {
  const TemporaryFolder out;
  expect_nothing_left({"export", (*folder / "model").string(), "--gguf", (out / "m.gguf").string(),
                       "--type", "q8_0"},
                      out.path(), ".m.gguf");
}

TEST_F(Interrupted, LogprobsAreWholeOrNotThere) {
  const TemporaryFolder out, text;
  write_file_atomic(text / "held-out.txt", small_text(7, 20'000));
  expect_nothing_left({"eval", run(), "--data", (text / "held-out.txt").string(), "--logprobs",
                       (out / "logprobs.jsonl").string()},
                      out.path(), ".logprobs");
}

TEST_F(Interrupted, ARandomModelOfABenchmarkIsDeleted) {
  const TemporaryFolder out;
  ASSERT_EQ(::setenv("TMPDIR", out.path().c_str(), 1), 0);
  // The program's standard output is a temporary folder, too: another than the model's.
  const std::string config = (*folder / "model" / "config.json").string();
  {
    Program program({"bench", "decode", "--synthetic", config});
    ASSERT_EQ(::unsetenv("TMPDIR"), 0);
    bool there = false;
    for (int i = 0; i < 30'000 && !there; ++i) {
      for (const std::string& name : names_in(out.path())) {
        there = there || fs::exists(out / name / "config.json");
      }
      ::usleep(1000);
    }
    ASSERT_TRUE(there);
    program.send(SIGINT);
    EXPECT_EQ(program.wait().exit_code, 130);
  }
  EXPECT_THAT(names_in(out.path()), IsEmpty());
}

// A run that is trained needs no compressor: the report says why there is none.
TEST_F(Interrupted, CompressorsAreLeftOutOfTheReport) {
  const SmallRuns runs;
  fs::create_directory(runs.path("bin"));
  runs.write("bin/xz", "#!/bin/sh\nexec sleep 600\n");
  fs::permissions(runs.path("bin/xz"), fs::perms::owner_all);
  std::vector<std::string> flags = runs.flags("run", {"--steps", "2"});
  std::erase(flags, "--no-report");
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", (runs.path("bin") + ":" + path).c_str(), 1);
  Program program(flags);
  ::setenv("PATH", path.c_str(), 1);
  ASSERT_NO_FATAL_FAILURE(
      wait_until([&] { return fs::exists(runs.path("run/.compressed/compressed.7z")); }));
  program.send(SIGTERM);
  const Said said = program.wait();
  expect_success(said);
  EXPECT_THAT(said.err, HasSubstr("report.html has no compressors"));
  EXPECT_THAT(read_file(runs.path("run/report.html")), HasSubstr("interrupted"));
  EXPECT_FALSE(fs::exists(runs.path("run/.compressed")));
}

}  // namespace
}  // namespace minke
