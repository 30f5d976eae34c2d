// minke generate, as a user has it.
#include <csignal>
#include <sstream>

#include "app/small_model.h"

namespace minke {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

class Generate : public SmallModel {
 protected:
  static Said generate(const std::vector<std::string>& flags, const std::string& input = "") {
    std::vector<std::string> line = {"generate", run()};
    line.insert(line.end(), flags.begin(), flags.end());
    if (std::ranges::count(flags, "--max-tokens") == 0) {
      line.insert(line.end(), {"--max-tokens", "12"});
    }
    return run_program(line, input);
  }
  static std::string text(const std::vector<std::string>& flags, const std::string& input = "") {
    const Said said = generate(flags, input);
    EXPECT_EQ(said.exit_code, 0) << said.err;
    return said.out;
  }
};

TEST_F(Generate, WritesTextAndSaysWhatItTook) {
  const Said said = generate({"--prompt", "Anne walked"});
  EXPECT_EQ(said.exit_code, 0) << said.err;
  EXPECT_TRUE(said.out.ends_with('\n'));
  EXPECT_GT(said.out.size(), 12U);
  EXPECT_THAT(
      said.err,
      MatchesRegex("prompt: [0-9]+ tokens, [0-9.]+ tokens/s; written: [0-9]+ "
                   "tokens, [0-9.]+ tokens/s \\((max-tokens|end of text)\\)\n(drafts: .*\n)?"));
}

// Greedy decoding of what it was trained on: the words are the text's.
TEST_F(Generate, KnowsItsText) {
  EXPECT_THAT(text({"--prompt", "Anne", "--temperature", "0"}),
              testing::ContainsRegex("walked|spoke|remembered|wrote"));
}

TEST_F(Generate, ASeedIsAText) {
  const std::string one = text({"--prompt", "Anne", "--temperature", "1.5", "--seed", "1"});
  EXPECT_EQ(one, text({"--prompt", "Anne", "--temperature", "1.5", "--seed", "1"}));
  EXPECT_NE(one, text({"--prompt", "Anne", "--temperature", "1.5", "--seed", "2"}));
}

// What leaves one candidate is greedy decoding, whatever the seed.
TEST_F(Generate, FiltersOfTokens) {
  const std::string greedy = text({"--prompt", "Anne", "--temperature", "0"});
  EXPECT_EQ(text({"--prompt", "Anne", "--top-k", "1", "--seed", "4"}), greedy);
  EXPECT_EQ(text({"--prompt", "Anne", "--top-p", "1e-9", "--seed", "5"}), greedy);
  EXPECT_EQ(text({"--prompt", "Anne", "--min-p", "1", "--seed", "6"}), greedy);
}

// generation_config.json says what no flag does, and which tokens end a text besides config.json's.
TEST_F(Generate, DefaultsAreTheModelsOwn) {
  const std::vector<std::string> line = {"--prompt", "Anne", "--max-tokens", "30"};
  const auto with = [&](const std::string& folder, const std::vector<std::string>& more) {
    std::vector<std::string> all = {"generate", folder};
    all.insert(all.end(), line.begin(), line.end());
    all.insert(all.end(), more.begin(), more.end());
    return run_program(all);
  };
  const std::string cold = edited("generation_config.json", [](auto& c) { c["top_k"] = 1; });
  const std::string greedy = with(run(), {"--temperature", "0"}).out;
  EXPECT_EQ(with(cold, {"--seed", "4"}).out, greedy);
  // What it does not say is then as the model is.
  EXPECT_EQ(with(cold, {"--seed", "4", "--top-k", "0"}).out,
            with(run(), {"--seed", "4", "--temperature", "1", "--top-p", "1"}).out);
  EXPECT_NE(with(run(), {"--seed", "4", "--temperature", "1", "--top-p", "1"}).out, greedy);

  // Every token ends it: nothing is written.
  const std::string mute = edited("generation_config.json", [](auto& c) {
    c["eos_token_id"] = nlohmann::json::array();
    for (int id = 0; id < 320; ++id) c["eos_token_id"].push_back(id);
  });
  EXPECT_THAT(with(mute, {}).err, HasSubstr("written: 0 tokens (end of text)"));
  edited("generation_config.json", [](auto& c) { c["eos_token_id"] = {1, 320}; });
  expect_fault(with(mute, {}), "generation_config.json", "eos_token_id is 320");
  edited("generation_config.json", [](auto& c) { c["eos_token_id"] = {1}, c["top_p"] = "x"; });
  expect_fault(with(mute, {}), "generation_config.json", "top_p is \"x\"");
}

TEST_F(Generate, NeitherThreadsNorPrefillChangeTheText) {
  const std::string prompt = "Anne walked to Lyme. Mary spoke of Bath. Lady Russell";
  const std::string one = text({"--prompt", prompt, "--prefill", "1", "--threads", "1"});
  EXPECT_EQ(one, text({"--prompt", prompt, "--prefill", "3", "--threads", "2"}));
  EXPECT_EQ(one, text({"--prompt", prompt}));
}

TEST_F(Generate, DraftsAreCountedAndDoNotChangeTheText) {
  for (const char* temperature : {"0", "0.8"}) {
    const std::vector<std::string> flags = {"--prompt",  "Anne walked",  "--temperature",
                                            temperature, "--max-tokens", "40"};
    const auto drafted = [&](const char* width) {
      std::vector<std::string> all = flags;
      all.insert(all.end(), {"--draft", width});
      return generate(all);
    };
    const Said plain = drafted("0");
    EXPECT_THAT(plain.err, Not(HasSubstr("drafts")));
    for (const char* width : {"1", "2", "8", "auto"}) {
      EXPECT_EQ(drafted(width).out, plain.out) << width;
    }
    EXPECT_THAT(drafted("2").err,
                testing::ContainsRegex("drafts: [0-9.]+ tokens a step; accepted by position: "
                                       "[0-9]+% of [0-9]+ [0-9]+% of [0-9]+\n"));
  }
  expect_fault(generate({"-p", "a", "--draft", "9"}), "--draft");
  expect_fault(generate({"-p", "a", "--draft", "-1"}), "--draft");
}

TEST_F(Generate, BenchShowsWhatDraftsGiveBesideWhatTheyCould) {
  const Said said =
      run_program({"bench", "decode", run(), "--prompt", "8", "--text", "40", "--json"});
  ASSERT_EQ(said.exit_code, 0) << said.err;
  std::istringstream lines(said.out);
  std::vector<std::string> widths;
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line);
    EXPECT_GT(object.at("value").get<double>(), 0);
    if (object.at("name") != "draft") continue;
    widths.push_back(object.at("shape"));
    const double tokens = object.at("tokens_a_step");
    EXPECT_GE(tokens, 1);
    const int width = widths.back() == "auto" ? 8 : std::stoi(widths.back());
    EXPECT_LE(tokens, width + 1);
    if (widths.back() == "auto" || width == 0) continue;
    EXPECT_EQ(object.at("accepted").size(), width);
    // A step costs more than one of a row, whatever it gives.
    EXPECT_GT(object.at("ceiling_bytes"), 0);
    EXPECT_LT(object.at("ceiling_bytes"), tokens);
    EXPECT_GT(object.at("ceiling_seconds"), 0);
  }
  EXPECT_EQ(widths,
            std::vector<std::string>({"auto", "0", "1", "2", "3", "4", "5", "6", "7", "8"}));
}

TEST_F(Generate, PromptsComeFromTheLineAFileOrStandardInput) {
  const std::string prompt = "Anne walked to";
  const std::string want = text({"-p", prompt, "--temperature", "0"});
  EXPECT_EQ(text({"--prompt-file", "-", "--temperature", "0"}, prompt), want);
  write_file_atomic(path("prompt"), prompt);
  EXPECT_EQ(text({"--prompt-file", path("prompt"), "--temperature", "0"}), want);
  EXPECT_NE(text({"--prompt", "", "--temperature", "1.2"}), "");  // a text of its own
}

// Trap 19's other half: a control token in the user's text is text.
TEST_F(Generate, ControlTokensInAPromptAreText) {
  const Said one = generate({"--prompt", "x"}), many = generate({"--prompt", "<｜User｜>"});
  EXPECT_THAT(one.err, HasSubstr("prompt: 2 tokens"));  // and the one that begins a text
  EXPECT_THAT(many.err, Not(HasSubstr("prompt: 2 tokens")));
}

TEST_F(Generate, AFullContextEndsTheText) {
  const Said said = generate({"--prompt", "Anne", "--max-tokens", "1000", "--seed", "3"});
  EXPECT_EQ(said.exit_code, 0);
  EXPECT_THAT(said.err, testing::AnyOf(HasSubstr("(context full)"), HasSubstr("(end of text)")));
  std::string much;
  for (int i = 0; i < 100; ++i) much += "Anne walked to Lyme. ";
  expect_fault(generate({"--prompt-file", "-"}, much), "no room in a context of 64", "shorten");
}

TEST_F(Generate, WrongFlagsAreOneLine) {
  expect_fault(generate({}), "--prompt-file", "required");
  expect_fault(generate({"--prompt", "a", "--prompt-file", "-"}), "--prompt");
  expect_fault(generate({"--prompt-file", path("nowhere")}), "nowhere", "no such file");
  expect_fault(generate({"-p", "a", "--temperature", "-1"}), "temperature -1");
  expect_fault(generate({"-p", "a", "--temperature", "nan"}), "temperature nan");
  expect_fault(generate({"-p", "a", "--top-k", "-1"}), "top-k -1");
  expect_fault(generate({"-p", "a", "--top-p", "0"}), "top-p 0");
  expect_fault(generate({"-p", "a", "--min-p", "1.5"}), "min-p 1.5");
  expect_fault(generate({"-p", "a", "--max-tokens", "0"}), "--max-tokens", "range 1 to");
  expect_fault(generate({"-p", "a", "--prefill", "0"}), "--prefill");
  expect_fault(generate({"-p", "a", "--seed", "x"}), "--seed");
  expect_fault(generate({"-p", "a", "--precision", "fp8"}), "--precision");
  expect_fault(run_program({"generate", path("nowhere"), "-p", "a"}), "nowhere", "no such folder");
}

TEST_F(Generate, HelpIsItsOwn) {
  const Said said = run_program({"generate", "--help"});
  EXPECT_EQ(said.exit_code, 0);
  EXPECT_THAT(said.out, HasSubstr("minke generate runs/first --prompt"));
  EXPECT_THAT(said.out, Not(HasSubstr("minke train")));
}

// Text comes while it is written, and Ctrl-C ends it as if it were complete.
TEST_F(Generate, StreamsAndStopsAtCtrlC) {
  Program program(
      {"generate", endless(), "-p", "Anne", "--temperature", "0", "--max-tokens", "1000000"}, "",
      path("out"));
  ASSERT_TRUE(appears(path("out")));
  program.send(SIGINT);
  const Said said = program.wait();
  EXPECT_EQ(said.exit_code, 0);
  EXPECT_THAT(said.err, HasSubstr("(interrupted)"));
  EXPECT_TRUE(read_file(path("out")).ends_with('\n'));
}

TEST_F(Generate, AFullDiskUnderTheTextIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const Said said = run_program({"generate", run(), "-p", "Anne"}, "", "/dev/full");
  EXPECT_EQ(said.exit_code, 2);
  EXPECT_THAT(said.err, HasSubstr("standard output: cannot be written"));
}

}  // namespace
}  // namespace minke
