// minke tokenizer: learn, encode, decode.
#include <pty.h>

#include "app/small_run.h"

namespace minke {
namespace {

using nlohmann::json;

TEST(TokenizerCommand, LearnsEncodesAndDecodes) {
  const SmallRuns runs;
  const std::string folder = runs.path("tokenizer");
  const Said learned = run_program(
      {"tokenizer", "train", "--data", runs.path("text"), "--vocab", "320", "--out", folder});
  expect_success(learned);
  EXPECT_THAT(learned.out, testing::HasSubstr("320 tokens"));

  const std::string text = "Anne walked to Lyme.\n\n  <｜User｜> na\xc3\xafve \xff end";
  const Said ids = run_program({"tokenizer", "encode", folder}, text);
  expect_success(ids);
  EXPECT_EQ(std::ranges::count(ids.out, '\n'), 1);
  const Said back = run_program({"tokenizer", "decode", folder}, ids.out);
  EXPECT_EQ(back.out, text);

  const std::string lines =
      json({{"text", "the sea"}}).dump() + "\n" + json({{"text", ""}}).dump() + "\n";
  const Said id_lines = run_program({"tokenizer", "encode", folder, "--jsonl"}, lines);
  expect_success(id_lines);
  EXPECT_EQ(run_program({"tokenizer", "decode", folder, "--jsonl"}, id_lines.out).out, lines);

  // The same bytes, for the same text, as the tokenizer of a run; any number of threads.
  expect_success(run_program({"tokenizer", "train", "--data", runs.path("text"), "--vocab", "320",
                              "--out", runs.path("again"), "--threads", "1"}));
  EXPECT_EQ(read_file(folder + "/tokenizer.json"), read_file(runs.path("again/tokenizer.json")));
}

// A file gets every byte; a terminal gets no byte that would command it.
TEST(TokenizerCommand, NoTextCommandsTheTerminal) {
  const SmallRuns runs;
  const std::string folder = runs.path("tokenizer");
  expect_success(run_program(
      {"tokenizer", "train", "--data", runs.path("text"), "--vocab", "320", "--out", folder}));
  const Said ids = run_program({"tokenizer", "encode", folder}, "\x1b[2J the sea");
  EXPECT_EQ(run_program({"tokenizer", "decode", folder}, ids.out).out, "\x1b[2J the sea");

  int terminal = -1, other_end = -1;
  char name[64];
  ASSERT_EQ(::openpty(&terminal, &other_end, name, nullptr, nullptr), 0);
  expect_success(run_program({"tokenizer", "decode", folder}, ids.out, name));
  char shown[256];
  const ssize_t got = ::read(terminal, shown, sizeof shown);
  ASSERT_GT(got, 0);
  EXPECT_EQ(std::string(shown, static_cast<size_t>(got)), "\\x1b[2J the sea");
  ::close(terminal);
  ::close(other_end);
}

TEST(TokenizerCommand, BadInputIsNamed) {
  const SmallRuns runs;
  const std::string folder = runs.path("tokenizer");
  const auto learn = [&](const std::string& data, const std::string& vocab) {
    return run_program({"tokenizer", "train", "--data", data, "--vocab", vocab, "--out", folder});
  };
  expect_fault(learn(runs.path("nowhere"), "320"), "nowhere");
  expect_fault(learn(runs.path("text"), "100"), "100");
  EXPECT_FALSE(fs::exists(folder));
  expect_success(learn(runs.path("text"), "320"));
  expect_fault(learn(runs.path("text"), "320"), folder);
  expect_fault(run_program({"tokenizer", "decode", folder}, "1 2 x3"), "x3");
  expect_fault(run_program({"tokenizer", "decode", folder}, "1 99999"), "99999");
  expect_fault(run_program({"tokenizer", "encode", folder, "--jsonl"}, "{\"txt\": 3}\n"), "line 1");
  expect_fault(run_program({"tokenizer", "encode", folder, "--jsonl"}, "{\"text\": 3}\n"), "text");
  expect_fault(run_program({"tokenizer", "encode", runs.path("text")}, "x"), "text");
}

}  // namespace
}  // namespace minke
