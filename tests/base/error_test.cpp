#include "base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/version.h"

namespace minke {
namespace {

TEST(Error, CarriesItsFormattedMessage) {
  EXPECT_THAT([] { fail("{}: expected {}, got {}", "config.json", 8, 7); },
              testing::ThrowsMessage<Error>("config.json: expected 8, got 7"));
}

TEST(CheckDeathTest, SaysWhereAndWhat) {
  const int got = 3;
  MINKE_CHECK(got == 3, "never said");
  EXPECT_DEATH(MINKE_CHECK(got == 4, "got {}", got),
               "internal error at .*error_test.cpp:[0-9]+: got == 4: got 3");
  EXPECT_DEATH(MINKE_CHECK(got == 4), "internal error at .*: got == 4\n");
}

TEST(Version, IsKnown) {
  EXPECT_THAT(version(), testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
  EXPECT_FALSE(commit().empty());
  EXPECT_THAT(compiler(), testing::MatchesRegex("(GCC|Clang) .*"));
}

}  // namespace
}  // namespace minke
