// Model folders that are damaged, or are of another model: each command that reads one says so in
// one line, with exit code 2.
#include <cstring>

#include "app/small_run.h"
#include "checkpoint/safetensors.h"
#include "golden.h"

namespace minke {
namespace {

using checkpoint::SafetensorsFile;
using checkpoint::SafetensorsWriter;
using checkpoint::TensorSpec;
using nlohmann::json;

// The checkpoint of a run of a few steps, and commands that read a copy of it.
class BadModel : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    runs = new SmallRuns;
    expect_success(run_program(runs->flags("run", {"--steps", "2"})));
  }
  static void TearDownTestSuite() { delete runs; }
  BadModel() {
    fs::copy(runs->path("run/checkpoint"), folder_ / "model");
    // verify needs an oracle's results before it looks at weights.
    const Said said =
        run_program({"verify", "--write", (folder_ / "made").string(), "--model", path().string()});
    EXPECT_EQ(said.exit_code, 0) << said.err;
    for (const char* file : {"golden.json", "golden.safetensors"}) {
      fs::copy(folder_ / "made" / file, path());
    }
  }

  fs::path path() const { return folder_ / "model"; }
  fs::path weights() const { return path() / "model.safetensors"; }
  void edit_config(const std::function<void(json&)>& edit) const {
    json config = json::parse(read_file(path() / "config.json"));
    edit(config);
    write_file_atomic(path() / "config.json", config.dump());
  }
  // Writes the weights again, each under the name that `rename` gives; empty: left out.
  void rewrite(const std::function<std::string(const std::string&)>& rename) const {
    const SafetensorsFile file(weights());
    std::map<std::string, std::string> old;
    std::vector<TensorSpec> specs;
    for (const auto& [name, stored] : file.tensors()) {
      TensorSpec spec = file.stored(name);
      spec.name = rename(name);
      if (spec.name.empty()) continue;
      old[spec.name] = name;
      specs.push_back(spec);
    }
    SafetensorsWriter writer(folder_ / "rewritten", specs);
    for (const TensorSpec& spec : writer.order()) {
      writer.write_bytes(file.stored(old.at(spec.name)).span());
    }
    writer.finish();
    fs::rename(folder_ / "rewritten", weights());
  }

  template <typename... Parts>
  void expect_faults(const std::vector<const char*>& commands, const Parts&... parts) const {
    for (const char* command : commands) {
      SCOPED_TRACE(command);
      std::vector<std::string> line = {command, path().string()};
      if (line[0] == "generate") line.insert(line.end(), {"--prompt", "Anne"});
      if (line[0] == "eval") line.insert(line.end(), {"--data", runs->path("valid.txt")});
      const Said said = run_program(line, "Anne\n");
      expect_fault(said, parts...);
      EXPECT_EQ(said.err.find("minke: "), 0U) << said.err;  // and nothing else
    }
  }

  static SmallRuns* runs;
  TemporaryFolder folder_;
};
SmallRuns* BadModel::runs = nullptr;

const std::vector<const char*> kAll = {"generate", "chat", "eval", "verify", "inspect"};
const std::vector<const char*> kLoading = {"generate", "chat", "eval", "verify"};

TEST_F(BadModel, ATruncatedFile) {
  fs::resize_file(weights(), fs::file_size(weights()) - 1);
  expect_faults(kAll, "model.safetensors", "bytes");
  fs::resize_file(weights(), 100);
  expect_faults(kAll, "model.safetensors");
  fs::resize_file(weights(), 0);
  expect_faults(kAll, "model.safetensors");
}

TEST_F(BadModel, ARenamedTensor) {
  rewrite([](const std::string& name) { return name == "model.norm.weight" ? "norm" : name; });
  expect_faults(kLoading, weights().parent_path().string(), "model.norm.weight is missing");
}

TEST_F(BadModel, AMissingTensor) {
  const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  rewrite([&](const std::string& name) { return name == bias ? "" : name; });
  expect_faults(kLoading, bias + " is missing");
}

TEST_F(BadModel, AMissingMtpLayer) {
  rewrite([](const std::string& name) { return name.find("layers.2.") < 10 ? "" : name; });
  expect_faults(kLoading, "is missing", "num_nextn_predict_layers 0");
}

TEST_F(BadModel, ATensorThatTheArchitectureDoesNotName) {
  edit_config([](json& config) { config["num_nextn_predict_layers"] = 0; });
  fs::remove(path() / "golden.safetensors");
  fs::remove(path() / "golden.json");
  expect_faults({"generate", "chat", "eval"}, "model.safetensors", "model.layers.2.", "another");
}

TEST_F(BadModel, AWrongShape) {
  edit_config([](json& config) { config["moe_intermediate_size"] = 24; });
  expect_faults({"generate", "chat", "eval"}, "model.safetensors", "experts.0.gate_proj.weight",
                "[16, 32]", "expected [24, 32]", "config.json");
}

TEST_F(BadModel, WeightsOfAnotherModel) {
  fs::copy_file(kGolden / "v2/model.safetensors", weights(), fs::copy_options::overwrite_existing);
  expect_faults(kLoading, "model.safetensors", "expected [320, 32] by config.json");
}

TEST_F(BadModel, AConfigWithAnUnknownValue) {
  edit_config([](json& config) { config["scoring_func"] = "tanh"; });
  expect_faults(kAll, "config.json", "scoring_func", "tanh", "sigmoid");
}

TEST_F(BadModel, SizesThatDoNotDivide) {
  edit_config([](json& config) { config["n_group"] = 3; });
  expect_faults(kAll, "config.json", "n_routed_experts is 8", "multiple of n_group, which is 3");
}

TEST_F(BadModel, NoConfigAndNoWeights) {
  fs::rename(weights(), folder_ / "kept");
  expect_faults(kLoading, "model.safetensors");
  fs::remove(path() / "config.json");
  expect_faults(kAll, "config.json");
}

TEST_F(BadModel, ATokenizerThatDoesNotBelongToIt) {
  // One more token than the model knows.
  const fs::path tokenizer = path() / "tokenizer.json";
  json content = json::parse(read_file(tokenizer));
  content["added_tokens"].push_back({{"id", 320},
                                     {"content", "<one more>"},
                                     {"single_word", false},
                                     {"lstrip", false},
                                     {"rstrip", false},
                                     {"normalized", false},
                                     {"special", true}});
  write_file_atomic(tokenizer, content.dump());
  expect_faults({"generate", "chat", "eval"}, path().string(), "321", "320");
  fs::remove(tokenizer);
  expect_faults({"generate", "chat", "eval"}, "tokenizer.json");
}

}  // namespace
}  // namespace minke
