// minke verify: exit codes, what it names, and folders that it makes.
#include <cstring>

#include "app/small_run.h"
#include "golden.h"

namespace minke {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

// Adds `more` to the first number of a tensor of a safetensors file.
void change_number(const fs::path& path, const std::string& tensor, float more) {
  std::string bytes = read_file(path);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const json entry = json::parse(bytes.substr(8, header)).at(tensor);
  const size_t at = 8 + header + entry["data_offsets"][0].get<size_t>();
  float number = 0;
  std::memcpy(&number, bytes.data() + at, sizeof number);
  number += more;
  std::memcpy(bytes.data() + at, &number, sizeof number);
  write_file_atomic(path, bytes);
}

class Verify : public testing::Test {
 protected:
  Verify() { fs::copy(kGolden / "v3", copy()); }
  std::string copy() const { return (folder_ / "v3").string(); }
  std::string path(const char* name) const { return (folder_ / name).string(); }

 private:
  TemporaryFolder folder_;
};

TEST_F(Verify, SoundFoldersAreVerified) {
  for (const char* precision : {"fp32", "bf16"}) {
    const Said said =
        run_program({"verify", copy(), (kGolden / "v2").string(), "--precision", precision});
    EXPECT_EQ(said.exit_code, 0) << said.err << said.out;
    EXPECT_THAT(said.out, HasSubstr("logits.1"));
    EXPECT_THAT(said.out, HasSubstr("  verified\n"));
    EXPECT_THAT(said.out, Not(HasSubstr("FAIL")));
  }
}

TEST_F(Verify, CodesScalesAndProductsOfFp8) {
  fs::copy(kGolden / "fp8", path("fp8"));
  const Said sound = run_program({"verify", path("fp8")});
  EXPECT_EQ(sound.exit_code, 0) << sound.err << sound.out;
  EXPECT_THAT(sound.out, HasSubstr("dy_128x1_pow2 codes"));
  EXPECT_THAT(sound.out, HasSubstr("wgrad"));
  change_number(path("fp8") + "/fp8.safetensors", "w_128x128.scale_inv", 1);
  change_number(path("fp8") + "/fp8.safetensors", "dgrad", 3);
  const Said broken = run_program({"verify", path("fp8")});
  EXPECT_EQ(broken.exit_code, 1) << broken.out;
  EXPECT_THAT(broken.out, HasSubstr("FAILED: 2 of"));
}

// One number of 97 x 2 x 26 logits is off by 3, and one of a gradient by its whole size: each is
// far more than any rounding.
TEST_F(Verify, ANumberBeyondTheBoundIsNamedAndExitCodeOne) {
  const fs::path golden = copy() + "/golden.safetensors";
  const std::string sound = read_file(golden);
  const std::string norm = "grad.model.layers.1.input_layernorm.weight";
  for (const char* precision : {"fp32", "bf16"}) {
    write_file_atomic(golden, sound);
    change_number(golden, "logits.1", 3);
    change_number(golden, norm, 1);
    const Said said =
        run_program({"verify", copy(), (kGolden / "v2").string(), "--precision", precision});
    EXPECT_EQ(said.exit_code, 1) << said.err << said.out;
    EXPECT_THAT(said.out, testing::ContainsRegex("logits.1 [^\n]* FAIL"));
    EXPECT_THAT(said.out, testing::ContainsRegex("logits.0 [^\n]* ok"));
    EXPECT_THAT(said.out, testing::ContainsRegex("FAIL [^\n]*" + norm));
    EXPECT_THAT(said.out, HasSubstr("  FAILED: 2 of "));
    EXPECT_THAT(said.out, HasSubstr("  verified\n"));  // the other folder
  }
}

TEST_F(Verify, ABrokenWeightIsExitCodeOne) {
  change_number(copy() + "/model.safetensors", "model.layers.1.mlp.gate.e_score_correction_bias",
                8);
  const Said said = run_program({"verify", copy()});
  EXPECT_EQ(said.exit_code, 1) << said.err;
  EXPECT_THAT(said.out, testing::ContainsRegex("experts [^\n]* FAIL [^\n]*route.1.experts"));
}

TEST_F(Verify, WhatCannotBeReadIsOneLineAndExitCodeTwo) {
  expect_fault(run_program({"verify"}), "no folder to verify");
  expect_fault(run_program({"verify", path("nowhere")}), "nowhere", "no such folder");
  expect_fault(run_program({"verify", copy(), "--precision", "fp16"}), "--precision");
  const std::string golden = copy() + "/golden.json";
  const std::string sound = read_file(golden);
  write_file_atomic(golden, "{\"gamma\": \"much\"}");
  expect_fault(run_program({"verify", copy()}), "golden.json", "gamma", "a number");
  write_file_atomic(golden, "{");
  expect_fault(run_program({"verify", copy()}), "golden.json", "not valid JSON");
  fs::remove(golden);
  expect_fault(run_program({"verify", copy()}), "golden.json");
  write_file_atomic(golden, sound);
  fs::resize_file(copy() + "/golden.safetensors", 5000);
  expect_fault(run_program({"verify", copy()}), "golden.safetensors");
  fs::remove(copy() + "/golden.safetensors");
  expect_fault(run_program({"verify", copy()}), "golden.safetensors");
}

TEST_F(Verify, WritesFoldersThatAreVerified) {
  const std::vector<std::string> write = {"verify", "--write", path("made"), "--model"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), write.begin(), write.end());
    return more;
  };
  Said said = run_program(with({copy() + "/config.json", "--documents", "--seed", "3"}));
  expect_success(said);
  EXPECT_THAT(said.out, HasSubstr("minke verify " + path("made")));
  for (const char* precision : {"fp32", "bf16"}) {
    said = run_program({"verify", path("made"), "--precision", precision});
    EXPECT_EQ(said.exit_code, 0) << said.err << said.out;
    EXPECT_THAT(said.out, Not(HasSubstr("not compared")));
  }
  expect_fault(run_program(with({copy()})), "is there already");
  fs::remove_all(path("made"));
  expect_fault(run_program({"verify", "--write", path("made")}), "--model");
  expect_fault(run_program(with({(kGolden / "configs/deepseek-v3.json").string()})), "memory",
               "a smaller model");
  expect_fault(run_program(with({path("nowhere")})), "nowhere");
  expect_fault(run_program(with({copy(), "--positions", "2"})), "positions");
  EXPECT_FALSE(fs::exists(path("made")));
}

// What minke trains can be written and verified like any other model.
TEST_F(Verify, AModelThatMinkeTrained) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "30"})));
  expect_success(run_program({"verify", "--write", path("made"), "--model", runs.path("run")}));
  for (const char* precision : {"fp32", "bf16"}) {
    const Said said = run_program({"verify", path("made"), "--precision", precision});
    EXPECT_EQ(said.exit_code, 0) << said.err << said.out;
  }
}

}  // namespace
}  // namespace minke
