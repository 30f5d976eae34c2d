// minke eval: the run's own last figure, from its checkpoint.
#include <cmath>
#include <sstream>

#include "app/small_run.h"

namespace minke {
namespace {

using testing::HasSubstr;

double number_after(const std::string& text, const std::string& what) {
  const size_t at = text.find(what);
  if (at == std::string::npos) {
    ADD_FAILURE() << what << " is not in " << text;
    return NAN;
  }
  return std::stod(text.substr(at + what.size()));
}

TEST(Eval, IsTheFigureThatTrainingEndedWith) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "40"})));
  double last = 0;
  std::istringstream lines(read_file(runs.path("run/metrics.jsonl")));
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] == "eval") last = event["bits_per_byte"];
  }
  const Said said = run_program({"eval", runs.path("run"), "--data", runs.path("valid.txt"),
                                 "--logprobs", runs.path("logprobs.jsonl")});
  expect_success(said);
  // The checkpoint holds embedding and norms rounded to BF16: 2^-8 of each number, of which the
  // loss, a difference of sums of many, shows less.
  const double bits = number_after(said.out, "bits per byte: ");
  EXPECT_NEAR(bits, last, std::ldexp(last, -8));
  EXPECT_THAT(said.out, HasSubstr("MTP depth 1"));
  EXPECT_THAT(said.out, HasSubstr("second token accepted"));
  EXPECT_THAT(said.out, HasSubstr("MaxVio"));

  // The same text, token by token: it adds up to every byte and every bit.
  const std::string text = read_file(runs.path("valid.txt"));
  std::string joined;
  double nats = 0;
  int64_t position = 0;
  std::istringstream tokens(read_file(runs.path("logprobs.jsonl")));
  for (std::string line; std::getline(tokens, line);) {
    const auto token = nlohmann::json::parse(line);
    EXPECT_EQ(token["position"], ++position);
    joined += token["text"].get<std::string>();
    nats -= token["logprob"].get<double>();
  }
  EXPECT_EQ(joined, text);
  // Four decimals are printed.
  EXPECT_NEAR(nats / std::log(2) / static_cast<double>(text.size()), bits, 1e-4);
}

TEST(Eval, AModelWithoutAContextIsNamed) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "2"})));
  auto config = nlohmann::json::parse(read_file(runs.path("run/checkpoint/config.json")));
  config["max_position_embeddings"] = 1;
  runs.write("run/checkpoint/config.json", config.dump());
  fs::remove(runs.path("run/checkpoint/trainer_state.json"));
  expect_fault(run_program({"eval", runs.path("run"), "--data", runs.path("valid.txt")}),
               "max_position_embeddings 1");
}

// The averaged weights are a model of their own, for every command that reads one.
TEST(Eval, AveragedWeightsAreRead) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "40", "--ema", "0.9"})));
  double last = 0, averaged = 0;
  std::istringstream lines(read_file(runs.path("run/metrics.jsonl")));
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] != "eval") continue;
    last = event["bits_per_byte"];
    averaged = event["ema"]["bits_per_byte"];
  }
  const Said said =
      run_program({"eval", runs.path("run"), "--data", runs.path("valid.txt"), "--ema"});
  expect_success(said);
  // The file holds them in FP32, and only what was BF16 in training too is BF16.
  EXPECT_NEAR(number_after(said.out, "bits per byte: "), averaged, 1e-4);
  EXPECT_GT(std::abs(averaged - last), 1e-3);
  for (const char* flag : {"--ema", ""}) {
    std::vector<std::string> line = {
        "generate", runs.path("run"), "--prompt", "Anne", "--max-tokens", "8", flag};
    if (line.back().empty()) line.pop_back();
    expect_success(run_program(line));
  }
  expect_success(run_program(runs.flags("without", {"--steps", "2"})));
  expect_fault(
      run_program({"eval", runs.path("without"), "--data", runs.path("valid.txt"), "--ema"}),
      "without", "averaged", "--ema");
}

// Lengths down to what holds a needle, and beyond the context, which it says.
TEST(Eval, NeedlesAreToldOfByLengthAndDepth) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "2"})));
  runs.write("long.txt", small_text(3, 200));
  std::vector<std::string> line = {"eval", runs.path("run"), "--data", runs.path("long.txt"),
                                   "--needle"};
  const Said at_context = run_program(line);
  expect_success(at_context);
  EXPECT_THAT(at_context.out, HasSubstr("never read"));
  EXPECT_THAT(at_context.out, HasSubstr("\n      64 "));
  EXPECT_THAT(at_context.out, testing::Not(HasSubstr("beyond")));
  EXPECT_EQ(run_program(line).out, at_context.out);
  line.insert(line.end(), {"--seq", "200"});
  const Said beyond = run_program(line);
  expect_success(beyond);
  for (const char* part :
       {"\n      50 ", "\n     100 ", "\n     200 ", "beyond the model's context"}) {
    EXPECT_THAT(beyond.out, HasSubstr(part));
  }
  line.back() = "40";
  expect_fault(run_program(line), "--needle", "48");
  line.back() = "10000";
  expect_fault(run_program(line), "--needle", "20000");
}

// Figures compare where windows are of one length, so it says which, and why.
TEST(Eval, SaysWhichWindowsItRead) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "2"})));
  const auto said = [&](const std::vector<std::string>& more) {
    std::vector<std::string> line = {"eval", runs.path("run"), "--data", runs.path("valid.txt")};
    line.insert(line.end(), more.begin(), more.end());
    return run_program(line).out;
  };
  EXPECT_THAT(said({}), HasSubstr("windows of 16 (as it was trained)"));
  EXPECT_THAT(said({"--seq", "33"}), HasSubstr("windows of 32 (--seq, made even)"));
  fs::remove(runs.path("run/checkpoint/trainer_state.json"));
  EXPECT_THAT(said({}), HasSubstr("windows of 64 (max_position_embeddings"));
  const fs::path config = runs.path("run/checkpoint/config.json");
  auto content = nlohmann::json::parse(read_file(config));
  content["max_position_embeddings"] = 1 << 17;
  write_file_atomic(config, content.dump());
  EXPECT_THAT(said({}), HasSubstr("windows of 4096 (--seq sets another)"));
}

TEST(Eval, BadInputIsNamed) {
  const SmallRuns runs;
  expect_success(run_program(runs.flags("run", {"--steps", "2"})));
  expect_fault(run_program({"eval", runs.path("run"), "--data", runs.path("nowhere")}), "nowhere");
  expect_fault(run_program({"eval", runs.path("text"), "--data", runs.path("valid.txt")}), "text");
  expect_fault(
      run_program({"eval", runs.path("run"), "--data", runs.path("valid.txt"), "--seq", "65"}),
      "max_position_embeddings");
  expect_fault(run_program({"eval", runs.path("run"), "--data", runs.path("valid.txt"),
                            "--logprobs", runs.path("no/such/file")}),
               "no/such/file");
}

}  // namespace
}  // namespace minke
