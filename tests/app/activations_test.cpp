// minke inspect --activations: what is written is what the model computed.
#include <cmath>

#include "app/small_run.h"
#include "checkpoint/safetensors.h"

namespace minke {
namespace {

using checkpoint::SafetensorsFile;
using testing::HasSubstr;

Said write(const SmallRuns& runs, const std::string& file, const std::string& text,
           const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {"inspect",       runs.path("run"), "--activations",
                                        runs.path(file), "--text",         text};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_program(arguments);
}

// The logits' log-probabilities are those that `minke eval` finds.
TEST(Activations, EndInTheLogitsThatEvalScores) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "30"})));
  const std::string text = "Anne walked to the sea. Mary spoke of Bath. ";
  runs.write("short.txt", text);
  expect_success(write(runs, "a.safetensors", text, {"--precision", "fp32"}));
  expect_success(
      run_program({"eval", runs.path("run"), "--data", runs.path("short.txt"), "--seq", "64",
                   "--precision", "fp32", "--logprobs", runs.path("logprobs.jsonl")}));
  const SafetensorsFile file(runs.path("a.safetensors"));
  const auto tokens = file.tensor("tokens").span<int32_t>();
  const Tensor logits_TV = file.tensor("logits");
  std::istringstream lines(read_file(runs.path("logprobs.jsonl")));
  size_t n = 0;
  for (std::string line; std::getline(lines, line);) {
    const auto token = nlohmann::json::parse(line);
    const auto position = token["position"].get<size_t>();
    ASSERT_LT(position, tokens.size());
    EXPECT_EQ(token["id"], tokens[position]);
    const auto row = logits_TV[static_cast<int64_t>(position) - 1].span<float>();
    double most = -INFINITY, sum = 0;
    for (const float x : row) most = std::max(most, static_cast<double>(x));
    for (const float x : row) sum += std::exp(static_cast<double>(x) - most);
    const double expected =
        static_cast<double>(row[static_cast<size_t>(tokens[position])]) - most - std::log(sum);
    // Another shape of the batch, so other orders of sums: some roundings of FP32 of each logit.
    EXPECT_NEAR(token["logprob"].get<double>(), expected, 1e-5 * (1 + std::abs(most)));
    ++n;
  }
  EXPECT_EQ(n, tokens.size() - 1);
}

TEST(Activations, AreWhatTheirNamesSay) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "5"})));
  const Said said = write(runs, "a.safetensors", "-", {"--precision", "fp32"});
  EXPECT_EQ(said.exit_code, 2);  // standard input is empty
  expect_success(write(runs, "a.safetensors", "Anne wrote from Lyme.", {"--precision", "fp32"}));
  const SafetensorsFile file(runs.path("a.safetensors"));
  const auto T = static_cast<int64_t>(file.tensor("tokens").count());
  const auto shape = [&](const char* name) { return file.tensor(name).shape(); };
  EXPECT_EQ(shape("layers.0.input"), (Shape{T, 32}));
  EXPECT_EQ(shape("layers.0.attention.q"), (Shape{T, 24}));
  EXPECT_EQ(shape("layers.0.attention.kv_latent"), (Shape{T, 16}));
  EXPECT_EQ(shape("layers.0.attention.log_sum_exp"), (Shape{2, T}));
  EXPECT_EQ(shape("layers.0.ffn.hidden"), (Shape{T, 48}));
  EXPECT_EQ(shape("layers.1.router.scores"), (Shape{T, 8}));
  EXPECT_EQ(shape("layers.1.experts.hidden"), (Shape{2 * T, 16}));
  EXPECT_EQ(shape("layers.1.shared.hidden"), (Shape{T, 16}));
  EXPECT_EQ(shape("hidden"), (Shape{T, 32}));
  EXPECT_FALSE(file.contains("layers.0.router.scores"));
  EXPECT_FALSE(file.contains("layers.1.ffn.hidden"));

  // Rows of the experts: all tokens of expert 0, then of expert 1, ...
  const Tensor chosen_TK = file.tensor("layers.1.router.experts");
  std::vector<int32_t> expected;
  for (int32_t e = 0; e < 8; ++e) {
    for (int64_t t = 0; t < T; ++t) {
      const auto experts = chosen_TK[t].span<int32_t>();
      if (std::ranges::count(experts, e) > 0) expected.push_back(static_cast<int32_t>(t));
    }
  }
  const auto rows = file.tensor("layers.1.experts.token").span<int32_t>();
  EXPECT_EQ(std::vector<int32_t>(rows.begin(), rows.end()), expected);

  // The residual stream is a sum: what a layer adds is the next one's input less its own.
  const auto weights = file.tensor("layers.1.router.weights");
  for (int64_t t = 0; t < T; ++t) {
    double sum = 0;
    for (const float w : weights[t].span<float>()) sum += static_cast<double>(w);
    EXPECT_NEAR(sum, 2.5, 1e-6);
  }
}

TEST(Activations, AreChosenByName) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "2"})));
  const Said said =
      write(runs, "a.safetensors", "Anne", {"--select", "layers.*.input", "--select", "tokens"});
  expect_success(said);
  const SafetensorsFile file(runs.path("a.safetensors"));
  std::set<std::string> names;
  for (const auto& [name, tensor] : file.tensors()) {
    names.insert(name);
    EXPECT_THAT(said.out, HasSubstr(name));
    EXPECT_EQ(tensor.dtype, name == "tokens" ? "I32" : "BF16");
  }
  EXPECT_EQ(names, (std::set<std::string>{"tokens", "layers.0.input", "layers.0.attention.input",
                                          "layers.0.ffn.input", "layers.1.input",
                                          "layers.1.attention.input", "layers.1.ffn.input"}));

  expect_fault(write(runs, "b.safetensors", "Anne", {"--select", "layers.9.input"}),
               "layers.9.input");
  EXPECT_FALSE(fs::exists(runs.path("b.safetensors")));
  expect_fault(run_program({"inspect", runs.path("run"), "--activations", runs.path("b")}),
               "--text");
  expect_fault(run_program({"inspect", runs.path("run"), "--text", "Anne"}), "--activations");
  expect_fault(write(runs, "b.safetensors", "Anne", {"--json"}), "--json");
}

}  // namespace
}  // namespace minke
