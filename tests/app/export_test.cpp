// minke export and minke quantize, as a user runs them.
#include "app/small_model.h"

namespace minke {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class ExportCommand : public SmallModel {};

TEST_F(ExportCommand, WritesOneFileOrSaysWhyNot) {
  const std::string file = path("model.gguf");
  const Said said = run_program({"export", run(), "--gguf", file});
  expect_success(said);
  EXPECT_THAT(said.out, HasSubstr(file));
  EXPECT_EQ(read_file(file).substr(0, 4), "GGUF");
  // Rows of 12 numbers are no blocks of 32, and nothing is left behind.
  const std::string other = path("other.gguf");
  expect_fault(run_program({"export", run(), "--gguf", other, "--type", "q8_0"}), "blocks of 32",
               "bf16");
  EXPECT_FALSE(fs::exists(other));
  const std::string unsplit = edited("tokenizer.json", [](json& tokenizer) {
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\p{N}";
  });
  expect_fault(run_program({"export", unsplit, "--gguf", other}), "splits text");
}

TEST(Export, AveragedWeightsAreAModelOfTheirOwn) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "20", "--ema", "0.9"})));
  expect_success(run_program({"export", runs.path("run"), "--gguf", runs.path("last.gguf")}));
  expect_success(
      run_program({"export", runs.path("run"), "--gguf", runs.path("averaged.gguf"), "--ema"}));
  const std::string last = read_file(runs.path("last.gguf")),
                    averaged = read_file(runs.path("averaged.gguf"));
  EXPECT_EQ(last.size(), averaged.size());
  EXPECT_NE(last, averaged);
  const std::string fp8 = runs.path("averaged-fp8");
  expect_success(run_program({"quantize", runs.path("run"), "--out", fp8, "--ema"}));
  expect_success(run_program({"generate", fp8, "-p", "Anne", "--max-tokens", "4"}));
  fs::remove(runs.path("run/checkpoint/ema.safetensors"));
  expect_fault(run_program({"export", runs.path("run"), "--gguf", runs.path("none.gguf"), "--ema"}),
               "no averaged weights");
}

TEST_F(ExportCommand, QuantizeWritesAFolderOnce) {
  const std::string out = path("fp8");
  expect_success(run_program({"quantize", run(), "--out", out}));
  const json config = json::parse(read_file(out + "/config.json"));
  EXPECT_EQ(config["quantization_config"]["weight_block_size"], json({128, 128}));
  EXPECT_EQ(read_file(out + "/tokenizer.json"), read_file(run() + "/checkpoint/tokenizer.json"));
  expect_fault(run_program({"quantize", run(), "--out", out}), out, "not empty");
  expect_fault(run_program({"quantize", out, "--out", path("twice")}), "FP8 already");
  const std::string text = path("fp8.txt");
  write_file_atomic(text, "Anne walked to Lyme, and Mary did not.");
  const Said said = run_program({"quantize", out, "--out", path("integers"), "--experts", "int8",
                                 "--eval", text, "--seq", "16"});
  expect_success(said);
  EXPECT_THAT(said.out, testing::HasSubstr("quantised"));
  EXPECT_FALSE(fs::exists(path("twice")));
}

TEST_F(ExportCommand, QuantizeSaysWhatItCostsAndBuys) {
  const std::string out = path("int8"), text = path("held-out.txt");
  const auto with = [&](const std::string& file) {
    return run_program(
        {"quantize", run(), "--out", out, "--experts", "int8", "--eval", file, "--seq", "16"});
  };
  // What cannot be read is said before anything is written.
  expect_fault(with(path("none.txt")), "none.txt");
  EXPECT_FALSE(fs::exists(out));
  std::string words;
  for (int i = 0; i < 200; ++i) words += "the sea and the ship and ";
  write_file_atomic(text, words);
  const Said said = with(text);
  expect_success(said);
  EXPECT_THAT(said.out, HasSubstr("windows of 16 (--seq)"));
  // Bits per byte are those that `minke eval` prints of each.
  for (const auto& [row, folder] : {std::pair{"before", run()}, std::pair{"quantised", out}}) {
    const Said alone = run_program({"eval", folder, "--data", text, "--seq", "16"});
    expect_success(alone);
    const std::string key = "bits per byte: ";
    const std::string bits = alone.out.substr(alone.out.find(key) + key.size(), 6);
    const size_t at = said.out.find(std::string("\n") + row);
    ASSERT_NE(at, std::string::npos) << said.out;
    EXPECT_THAT(said.out.substr(at + 1, said.out.find('\n', at + 1) - at), HasSubstr(bits));
  }
}

}  // namespace
}  // namespace minke
