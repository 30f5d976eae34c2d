// The frame that all commands share: help, version, and how a fault is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/run_program.h"
#include "base/version.h"

namespace minke {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

TEST(Program, VersionSaysVersionCommitCompilerAndInstructionSet) {
  const Said said = run_program({"--version"});
  EXPECT_EQ(said.exit_code, 0);
  EXPECT_THAT(said.out, MatchesRegex("minke [0-9.]+\ncommit [^\n]+\ncompiler [^\n]+\n"
                                     "instruction set (scalar|avx2|avx512)\n"));
  EXPECT_THAT(said.out, HasSubstr(commit()));
}

TEST(Program, HelpTeaches) {
  const Said said = run_program({"--help"});
  EXPECT_EQ(said.exit_code, 0);
  EXPECT_THAT(said.out, HasSubstr("Examples:"));
  EXPECT_EQ(said.err, "");
}

// One line that names the fault and where help is, and exit code 2.
TEST(Program, AWrongLineIsOneClearErrorAndExitCodeTwo) {
  struct Case {
    std::vector<std::string> arguments;
    const char* named;
  };
  const std::vector<Case> cases = {
      {{"swim"}, "'swim'"},
      {{"--depth", "3"}, "--depth"},
      {{"--threads", "0"}, "--threads"},
      {{"--threads", "two"}, "two"},
      {{"--threads", "2"}, "subcommand"},
  };
  for (const Case& c : cases) {
    const Said said = run_program(c.arguments);
    EXPECT_EQ(said.exit_code, 2) << c.named;
    EXPECT_THAT(said.err, MatchesRegex("minke: [^\n]+; see `minke --help`\n"));
    EXPECT_THAT(said.err, HasSubstr(c.named));
    EXPECT_EQ(said.out, "");
  }
}

TEST(Program, WithoutACommandItHelpsAndFails) {
  const Said said = run_program({});
  EXPECT_EQ(said.exit_code, 2);
  EXPECT_THAT(said.err, HasSubstr("Usage:"));
  EXPECT_EQ(said.out, "");
}

TEST(Program, AFullDiskUnderTheOutputIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const Said said = run_program({"--version"}, "", "/dev/full");
  EXPECT_EQ(said.exit_code, 2);
  EXPECT_THAT(said.err, HasSubstr("standard output"));
}

}  // namespace
}  // namespace minke
