// minke chat: with a model that can, and with one that only continues.
#include <csignal>

#include "app/small_model.h"
#include "text/chat_templates.h"

namespace minke {
namespace {

using testing::HasSubstr;
using testing::Not;

class Chat : public SmallModel {
 protected:
  static Said chat(const std::string& model, const std::string& lines,
                   const std::vector<std::string>& flags = {}) {
    std::vector<std::string> line = {"chat", model, "--max-tokens", "6", "--temperature", "0"};
    line.insert(line.end(), flags.begin(), flags.end());
    return run_program(line, lines);
  }
  // The model with a chat template, as if it had been tuned.
  std::string tuned(const std::string& chat_template) const {
    return edited("tokenizer_config.json",
                  [&](auto& config) { config["chat_template"] = chat_template; });
  }
};

TEST_F(Chat, AModelThatWasNeverTunedSaysSoAndContinues) {
  const Said said = chat(run(), "Anne walked\n");
  EXPECT_EQ(said.exit_code, 0) << said.err;
  EXPECT_THAT(said.err, HasSubstr("never tuned to chat"));
  const Said same = run_program(
      {"generate", run(), "--prompt", "Anne walked", "--max-tokens", "6", "--temperature", "0"});
  EXPECT_EQ(said.out, same.out);
}

// The second line continues the first and its answer; after /new it begins a text.
TEST_F(Chat, GoesOnUntilItIsToldToForget) {
  const std::string first = chat(run(), "Anne walked\n").out;
  const std::string alone = chat(run(), "Mary\n").out;
  const std::string both = chat(run(), "Anne walked\nMary\n").out;
  EXPECT_TRUE(both.starts_with(first));
  const std::string answer = first.substr(0, first.size() - 1);
  const Said joined = run_program({"generate", run(), "--prompt", "Anne walked" + answer + "\nMary",
                                   "--max-tokens", "6", "--temperature", "0"});
  EXPECT_EQ(both, first + joined.out);
  EXPECT_EQ(chat(run(), "Anne walked\n/new\nMary\n").out, first + alone);
  EXPECT_EQ(chat(run(), "Mary\r\n\n/exit\nAnne walked\n").out, alone);
  EXPECT_EQ(chat(run(), "Mary").out, alone);  // a last line without an end
}

TEST_F(Chat, MessagesOfSeveralLines) {
  const std::string text = "Anne walked\n\n/exit";
  const Said same =
      run_program({"generate", run(), "--prompt", text, "--max-tokens", "6", "--temperature", "0"});
  for (const char* end : {"\n\"\"\"\n", "\n\"\"\"", "\n", ""}) {
    EXPECT_EQ(chat(run(), "\"\"\"\n" + text + end).out, same.out) << end;
  }
  EXPECT_EQ(chat(run(), "\"\"\"\n\"\"\"\nMary\n").out, chat(run(), "Mary\n").out);
}

TEST_F(Chat, ATunedModelIsAsked) {
  const std::string model = tuned(text::kDeepSeekV3Template);
  const Said said = chat(model, "Mary\nAnne\n", {"--system", "Be brief."});
  EXPECT_EQ(said.exit_code, 0) << said.err;
  EXPECT_THAT(said.err, Not(HasSubstr("never tuned")));
  EXPECT_NE(said.out, chat(run(), "Mary\nAnne\n").out);
}

TEST_F(Chat, WhatItCannotDoIsOneLine) {
  const Said said = chat(run(), "Mary\n", {"--system", "Be brief."});
  expect_fault(said, "--system: this model was never tuned");
  EXPECT_EQ(said.err.find("minke: "), 0U) << said.err;
  expect_fault(chat(run(), "Mary\n", {"--thinking"}), "--thinking");
  const std::string unknown = tuned("[INST] {{ content }} [/INST]");
  expect_fault(chat(unknown, "Mary\n"), "chat_template", "minke generate", "--chat-format",
               "r1-0528");
  EXPECT_EQ(chat(unknown, "Mary\n", {"--chat-format", "v9"}).exit_code, 2);
  const Said generated =
      run_program({"generate", unknown, "--prompt", "Mary", "--max-tokens", "2"});
  EXPECT_EQ(generated.exit_code, 0) << generated.err;
  const Said asked = chat(unknown, "Mary\n", {"--chat-format", "v3"});
  const std::string known = tuned(text::kDeepSeekV3Template);  // the same folder, edited again
  EXPECT_EQ(asked.out, chat(known, "Mary\n").out);
  expect_fault(chat(path("nowhere"), "Mary\n"), "nowhere", "no such folder");
}

// Which may take minutes.
TEST_F(Chat, WhatItCannotDoIsSaidBeforeWeightsAreRead) {
  const std::string unknown = tuned("[INST] {{ content }} [/INST]");
  write_file_atomic(fs::path(unknown) / "model.safetensors", "no weights");
  expect_fault(chat(unknown, "Mary\n"), "chat_template");
  const std::vector<std::string> v3 = {"--chat-format", "v3"};
  expect_fault(chat(unknown, "Mary\n", {v3[0], v3[1], "--thinking"}), "--thinking");
  expect_fault(chat(unknown, "Mary\n", v3), "model.safetensors");
}

// A message that does not fit is that message's fault.
TEST_F(Chat, AFullContextDoesNotEndTheConversation) {
  std::string much;
  for (int i = 0; i < 100; ++i) much += "Anne walked to Lyme. ";
  const Said said = chat(run(), much + "\nMary\n");
  EXPECT_EQ(said.exit_code, 0);
  EXPECT_THAT(said.err, HasSubstr("no room in a context of 64"));
  EXPECT_THAT(said.err, HasSubstr("/new"));
  EXPECT_EQ(said.out, chat(run(), "Mary\n").out);
}

// Ctrl-C ends an answer; the next line is answered.
TEST_F(Chat, CtrlCStopsAnAnswer) {
  Program program({"chat", endless(), "--temperature", "0", "--max-tokens", "1000000"},
                  "Anne\n/exit\n", path("out"));
  ASSERT_TRUE(appears(path("out")));
  program.send(SIGINT);
  EXPECT_EQ(program.wait().exit_code, 0);
  EXPECT_TRUE(read_file(path("out")).ends_with('\n'));
}

TEST_F(Chat, HelpIsItsOwn) {
  const Said said = run_program({"chat", "--help"});
  EXPECT_EQ(said.exit_code, 0);
  EXPECT_THAT(said.out, HasSubstr("minke chat runs/first"));
  EXPECT_THAT(said.out, Not(HasSubstr("minke train")));
}

}  // namespace
}  // namespace minke
