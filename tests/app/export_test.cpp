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

TEST_F(ExportCommand, QuantizeWritesAFolderOnce) {
  const std::string out = path("fp8");
  expect_success(run_program({"quantize", run(), "--out", out}));
  const json config = json::parse(read_file(out + "/config.json"));
  EXPECT_EQ(config["quantization_config"]["weight_block_size"], json({128, 128}));
  EXPECT_EQ(read_file(out + "/tokenizer.json"), read_file(run() + "/checkpoint/tokenizer.json"));
  expect_fault(run_program({"quantize", run(), "--out", out}), out, "not empty");
  expect_fault(run_program({"quantize", out, "--out", path("twice")}), "FP8 already");
  EXPECT_FALSE(fs::exists(path("twice")));
}

}  // namespace
}  // namespace minke
