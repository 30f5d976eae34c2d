#include "base/log.h"

#include <gtest/gtest.h>

namespace minke {
namespace {

std::string logged(bool verbose) {
  testing::internal::CaptureStderr();
  start_logging(verbose);
  log::debug("details");
  log::info("reading {} files", 3);
  log::warn("old");
  log::error("bad");
  return testing::internal::GetCapturedStderr();
}

TEST(Log, SaysItsLevelExceptWhereItMerelyTells) {
  EXPECT_EQ(logged(false), "reading 3 files\nwarning: old\nerror: bad\n");
  EXPECT_EQ(logged(true), "debug: details\nreading 3 files\nwarning: old\nerror: bad\n");
}

}  // namespace
}  // namespace minke
