#include "base/progress.h"

#include <gtest/gtest.h>

#include <cmath>

namespace minke {
namespace {

TEST(Format, Durations) {
  EXPECT_EQ(format_duration(0), "0.0s");
  EXPECT_EQ(format_duration(0.84), "0.8s");
  EXPECT_EQ(format_duration(9.96), "10s");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(59.6), "1m 00s");
  EXPECT_EQ(format_duration(200), "3m 20s");
  EXPECT_EQ(format_duration(3599.7), "1h 00m");
  EXPECT_EQ(format_duration(7500), "2h 05m");
  EXPECT_EQ(format_duration(273600), "3d 04h");
  EXPECT_EQ(format_duration(NAN), "?");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(INFINITY), "?");
}

TEST(Format, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.0 kB");
  EXPECT_EQ(format_bytes(1.24e9), "1.2 GB");
  EXPECT_EQ(format_bytes(999.6e6), "1.0 GB");
  EXPECT_EQ(format_bytes(16e18), "16000 PB");
}

TEST(Format, Counts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(987), "987");
  EXPECT_EQ(format_count(4096), "4.10K");
  EXPECT_EQ(format_count(12345), "12.3K");
  EXPECT_EQ(format_count(999499), "999K");
  EXPECT_EQ(format_count(999500), "1.00M");
  EXPECT_EQ(format_count(671.0e9), "671B");
  EXPECT_EQ(format_count(14.8e12), "14.8T");
}

TEST(Progress, SaysFractionRateAndTimeLeft) {
  using Unit = Progress::Unit;
  EXPECT_EQ(progress_text("reading", 480'000'000, 1'200'000'000, Unit::kBytes, 40),
            "reading: 40% of 1.2 GB, 12.0 MB/s, 1m 00s left");
  EXPECT_EQ(progress_text("merging", 0, 4096, Unit::kCount, 2),
            "merging: 0% of 4.10K, 0/s, ? left");
  EXPECT_EQ(progress_text("merging", 4095, 4096, Unit::kCount, 0),
            "merging: 99% of 4.10K, 0/s, ? left");
  EXPECT_EQ(progress_text("merging", 4096, 4096, Unit::kCount, 8), "merging: 4.10K in 8.0s, 512/s");
  EXPECT_EQ(progress_text("nothing", 0, 0, Unit::kCount, 0), "nothing: 0 in 0.0s, 0/s");
}

// Standard error is no terminal here: a line that is not due is not shown, one to keep is.
TEST(LiveLine, IsAPlainLineWhereThereIsNoTerminal) {
  testing::internal::CaptureStderr();
  {
    LiveLine line;
    line.show("not yet");
    line.clear();
    line.keep("done");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "done\n");
}

TEST(Progress, ShortWorkIsSilent) {
  testing::internal::CaptureStderr();
  {
    Progress progress("blinking", 2);
    progress.add(1);
    progress.add(1);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace minke
