#include "base/log.h"

#include <gtest/gtest.h>

namespace minke {
namespace {

TEST(Log, SaysItsLevelExceptWhereItMerelyTells) {
  testing::internal::CaptureStderr();
  start_logging();
  log::info("reading {} files", 3);
  log::warn("old");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "reading 3 files\nwarning: old\n");
}

TEST(Log, NoTextCommandsTheTerminal) {
  EXPECT_EQ(printable("a\tb\nc é 鲸"), "a\tb\nc é 鲸");
  EXPECT_EQ(printable("\x1b[2J\r\x07\x7f"), "\\x1b[2J\\x0d\\x07\\x7f");
  EXPECT_EQ(printable("\xc2\x9b"
                      "2J\xc2\xa0\xc2"),
            "\\x9b2J\xc2\xa0\xc2");
  EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
  testing::internal::CaptureStderr();
  start_logging();
  log::warn("{}: \x1b[31m", "name");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "warning: name: \\x1b[31m\n");
}

}  // namespace
}  // namespace minke
