// What a checkpoint holds besides the weights of its architecture, and what becomes of it: tensors
// that it does not name are refused, or (--allow-extra) listed and carried along.
#include "app/small_model.h"
#include "checkpoint/safetensors.h"

namespace minke {
namespace {

using checkpoint::CheckpointFolder;
using checkpoint::SafetensorsFile;
using checkpoint::SafetensorsWriter;
using checkpoint::TensorSpec;
using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kExtra = "vision.self_attn.q_proj.weight";
const std::string kBytes = "forty bytes that no model computes with.";

class ExtraTensors : public SmallModel {
 protected:
  // A copy of the checkpoint with one tensor more.
  std::string with_extra() const {
    std::string folder = edited("config.json", [](json&) {});
    fs::remove(folder + "/checksums.json");
    const SafetensorsFile file(folder + "/model.safetensors");
    std::vector<TensorSpec> specs = {{kExtra, "F16", {4, 5}}};
    for (const auto& [name, stored] : file.tensors()) specs.push_back(stored);
    SafetensorsWriter writer(path("more.safetensors"), specs);
    for (const TensorSpec& spec : writer.order()) {
      writer.write_bytes(spec.name == kExtra ? std::as_bytes(std::span(kBytes))
                                             : file.stored(spec.name).span());
    }
    writer.finish();
    fs::rename(path("more.safetensors"), folder + "/model.safetensors");
    return folder;
  }
  static void expect_extra(const std::string& folder) {
    const CheckpointFolder files(folder);
    ASSERT_TRUE(files.contains(kExtra));
    const auto bytes = files.stored(kExtra).span();
    EXPECT_EQ(files.stored(kExtra).dtype, "F16");
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), kBytes);
  }
  std::vector<std::string> init_flags(const std::string& from, const char* out) const {
    const SmallRuns& text = runs();
    return text.flags(path(out), {"--steps", "4", "--model", "", "--init", from});
  }
};

TEST_F(ExtraTensors, AreRefusedOrListedAndNotUsed) {
  const std::string folder = with_extra();
  const std::vector<std::string> line = {"generate", folder,         "--prompt",
                                         "Anne",     "--max-tokens", "12"};
  expect_fault(run_program(line), kExtra, "model.safetensors", "--allow-extra");
  auto allowed = line;
  allowed.emplace_back("--allow-extra");
  const Said said = run_program(allowed);
  expect_success(said);
  EXPECT_THAT(said.err, HasSubstr(kExtra));
  auto plain = line;
  plain[1] = run();
  EXPECT_EQ(said.out, run_program(plain).out);

  EXPECT_THAT(run_program({"inspect", folder}).out, HasSubstr(std::string(kExtra) + " F16 [4, 5]"));
  const json found = json::parse(run_program({"inspect", folder, "--json"}).out)["files"];
  EXPECT_EQ(found["extra"], json({kExtra}));
  const json without = json::parse(run_program({"inspect", run(), "--json"}).out)["files"];
  EXPECT_EQ(found["parameters"], without["parameters"]);
}

TEST_F(ExtraTensors, SurviveQuantizeAndAreLeftOutOfGguf) {
  const std::string folder = with_extra(), fp8 = path("fp8"), gguf = path("model.gguf");
  expect_fault(run_program({"quantize", folder, "--out", fp8}), kExtra);
  EXPECT_FALSE(fs::exists(fp8));
  write_file_atomic(fs::path(folder) / "modeling.py", "class A: pass");  // as auto_map may name it
  const Said said = run_program({"quantize", folder, "--out", fp8, "--allow-extra"});
  expect_success(said);
  EXPECT_THAT(said.err, HasSubstr(kExtra));
  expect_extra(fp8);
  EXPECT_EQ(read_file(fs::path(fp8) / "modeling.py"), "class A: pass");
  expect_fault(run_program({"export", folder, "--gguf", gguf}), kExtra);
  const Said exported = run_program({"export", folder, "--gguf", gguf, "--allow-extra"});
  expect_success(exported);
  EXPECT_THAT(exported.err, testing::AllOf(HasSubstr("left out"), HasSubstr(kExtra)));
  expect_success(run_program({"export", run(), "--gguf", path("plain.gguf")}));
  EXPECT_TRUE(read_file(gguf) == read_file(path("plain.gguf")));
}

TEST_F(ExtraTensors, AreInEveryCheckpointOfARunThatBeganWithThem) {
  const std::string folder = with_extra();
  auto flags = init_flags(folder, "out");
  expect_fault(run_program(flags), kExtra, "--allow-extra");
  fs::remove_all(path("out"));
  flags.insert(flags.end(), {"--allow-extra", "--stop-at", "2"});
  const Said said = run_program(flags);
  expect_success(said);
  EXPECT_THAT(said.err, HasSubstr(kExtra));
  expect_extra(path("out/checkpoint"));
  expect_success(run_program({"train", "--resume", path("out")}));
  expect_extra(path("out/checkpoint"));
}

// A model's own ways of sampling and of ending a text stay its own when it learns more.
TEST_F(ExtraTensors, GenerationConfigAndEndTokensSurviveTraining) {
  const std::string folder = edited("generation_config.json", [](json& c) {
    c["temperature"] = 0.25;
    c["eos_token_id"] = {1, 7};
  });
  edited("config.json", [](json& c) { c["eos_token_id"] = {1, 7, 9}; });
  fs::remove(folder + "/checksums.json");
  expect_success(run_program(init_flags(folder, "out")));
  const json generation = json::parse(read_file(path("out/checkpoint/generation_config.json")));
  EXPECT_EQ(generation["temperature"], 0.25);
  EXPECT_EQ(generation["eos_token_id"], json({1, 7, 9}));
  EXPECT_EQ(json::parse(read_file(path("out/checkpoint/config.json")))["eos_token_id"],
            json({1, 7, 9}));
}

TEST_F(ExtraTensors, TrainingThatBeginsWithFp8EndsWithBf16) {
  const std::string fp8 = path("fp8");
  expect_success(run_program({"quantize", run(), "--out", fp8}));
  expect_success(run_program(init_flags(fp8, "out")));
  const json config = json::parse(read_file(path("out/checkpoint/config.json")));
  EXPECT_FALSE(config.contains("quantization_config"));
  const CheckpointFolder files(path("out/checkpoint"));
  for (const auto& [name, file] : files.tensors()) {
    const bool bias = name.ends_with("e_score_correction_bias");
    EXPECT_EQ(file->stored(name).dtype, bias ? "F32" : "BF16") << name;
  }
  expect_success(run_program({"generate", path("out"), "--prompt", "Anne", "--max-tokens", "4"}));
}

}  // namespace
}  // namespace minke
