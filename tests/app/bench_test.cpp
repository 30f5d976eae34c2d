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
  const Said said = run_program(
      {"bench", "kernels", "--quick", "--json", "--only", "rms_norm", "--threads", "2"});
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
      {"rms_norm", 1}, {"rms_norm", 2}, {"rms_norm_backward", 1}, {"rms_norm_backward", 2}};
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

TEST(Bench, AnUnknownOpIsAnError) {
  const Said said = run_program({"bench", "kernels", "--only", "swim"});
  EXPECT_EQ(said.exit_code, 2);
  EXPECT_THAT(said.err, HasSubstr("'swim'"));
}

}  // namespace
}  // namespace minke
