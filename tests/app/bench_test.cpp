// minke bench: what it prints, not how fast it was.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "app/run_program.h"

namespace minke {
namespace {

using testing::HasSubstr;

TEST(Bench, AnObjectALineForEveryOpAndNumberOfThreads) {
  const Said said =
      run_program({"bench", "kernels", "--quick", "--json", "--only", "rout", "--threads", "2"});
  ASSERT_EQ(said.exit_code, 0) << said.err;
  std::istringstream lines(said.out);
  std::set<std::pair<std::string, int>> seen;
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line);
    seen.emplace(object.at("name").get<std::string>(), object.at("threads").get<int>());
    EXPECT_FALSE(object.at("shape").get<std::string>().empty());
    EXPECT_EQ(object.at("unit"), "GB/s");
    const double value = object.at("value"), peak = object.at("peak"), share = object.at("share");
    EXPECT_GT(value, 0);
    EXPECT_NEAR(share, value / peak, 1e-9 * share);  // of a single burst
  }
  const std::set<std::pair<std::string, int>> expected = {
      {"route", 1}, {"route", 2}, {"router_backward", 1}, {"router_backward", 2}};
  EXPECT_EQ(seen, expected);
}

TEST(Bench, TokenizerCountsWhatItEncodes) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "text.txt", "She had been there, and she had been there again.\n");
  ASSERT_EQ(run_program({"tokenizer", "train", "--data", (folder / "text.txt").string(), "--vocab",
                         "280", "--out", (folder / "tokenizer").string()})
                .exit_code,
            0);
  const Said said = run_program({"bench", "tokenizer", (folder / "tokenizer").string(),
                                 (folder / "text.txt").string(), "--json"});
  ASSERT_EQ(said.exit_code, 0) << said.err;
  const auto object = nlohmann::json::parse(said.out);
  EXPECT_EQ(object.at("unit"), "MB/s");
  EXPECT_GT(object.at("value").get<double>(), 0);
  const int64_t tokens = object.at("tokens");
  EXPECT_GT(tokens, 10);
  EXPECT_LE(tokens, 50);
}

// A random model whose experts and head are integers is one that all commands read.
TEST(Bench, ARandomModelOfIntegersIsMeasuredAndKept) {
  const TemporaryFolder folder;
  const std::string kept = (folder / "kept").string();
  const std::string config = std::string(MINKE_GOLDEN_DIR) + "/v3/config.json";
  const Said said =
      run_program({"bench", "decode", "--synthetic", config, "--layers", "2", "--experts", "int4",
                   "--head", "int8", "--keep", kept, "--prompt", "5", "--text", "32", "--json"});
  ASSERT_EQ(said.exit_code, 0) << said.err;
  std::istringstream lines(said.out);
  std::vector<std::string> names;
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line);
    names.push_back(object.at("name"));
    EXPECT_GT(object.at("value").get<double>(), 0);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"prefill", "prefill_read_rows", "decode"}));
  const auto written = nlohmann::json::parse(read_file(kept + "/config.json"));
  EXPECT_EQ(written["num_hidden_layers"], 2);
  EXPECT_EQ(written["quantization_config"]["experts_bits"], 4);
  EXPECT_EQ(written["quantization_config"]["head_bits"], 8);
  EXPECT_EQ(run_program({"bench", "decode", kept, "--prompt", "5", "--text", "32"}).exit_code, 0);
  // Not in the place of another, and of a random model alone.
  const Said again = run_program(
      {"bench", "decode", "--synthetic", config, "--layers", "2", "--keep", kept, "--json"});
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_THAT(again.err, HasSubstr("not empty"));
  EXPECT_EQ(run_program({"bench", "decode", kept, "--experts", "int8"}).exit_code, 2);
}

// A real one takes minutes to write and to pack.
TEST(Bench, WhatARandomModelCannotDoIsSaidBeforeItIsWritten) {
  const TemporaryFolder folder;
  const std::string kept = (folder / "kept").string();
  const std::string config = std::string(MINKE_GOLDEN_DIR) + "/v3/config.json";
  const auto refused = [&](std::vector<std::string> flags, const char* why) {
    std::vector<std::string> line = {"bench", "decode", "--synthetic", config, "--keep", kept};
    line.insert(line.end(), flags.begin(), flags.end());
    const Said said = run_program(line);
    EXPECT_EQ(said.exit_code, 2);
    EXPECT_THAT(said.err, HasSubstr(why));
    EXPECT_FALSE(fs::exists(kept));
  };
  refused({"--prompts", config}, "--prompts");
  refused({"--prompt", "1000000"}, "more than the model's");
  refused({"--temperature", "nan"}, "temperature nan");
  const Said said = run_program({"bench", "decode", kept, "--layers", "1"});
  EXPECT_EQ(said.exit_code, 2);
  EXPECT_THAT(said.err, HasSubstr("--layers"));
}

TEST(Bench, AnUnknownOpIsAnError) {
  const Said said = run_program({"bench", "kernels", "--only", "swim"});
  EXPECT_EQ(said.exit_code, 2);
  EXPECT_THAT(said.err, HasSubstr("'swim'"));
}

}  // namespace
}  // namespace minke
