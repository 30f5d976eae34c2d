#include "base/profile.h"

#include <gtest/gtest.h>

#include <thread>

namespace minke {
namespace {

void work(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

TEST(Profile, APieceDoesNotCountThePiecesInside) {
  start_profile();
  for (int i = 0; i < 2; ++i) {
    const Profiled outer("outer");
    work(5);
    const Profiled inner("inner");
    work(20);
  }
  const auto entries = finish_profile();
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].name, "inner");  // the longest first
  EXPECT_EQ(entries[0].calls, 2);
  EXPECT_EQ(entries[1].name, "outer");
  EXPECT_GE(entries[0].seconds, 0.04);
  EXPECT_GE(entries[1].seconds, 0.01);
  EXPECT_DOUBLE_EQ(entries[0].whole, entries[0].seconds);
  EXPECT_NEAR(entries[1].whole, entries[0].seconds + entries[1].seconds, 1e-9);
}

TEST(Profile, NothingIsCountedUnasked) {
  { const Profiled piece("unasked"); }
  start_profile();
  EXPECT_TRUE(finish_profile().empty());
}

}  // namespace
}  // namespace minke
