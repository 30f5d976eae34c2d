#include "base/interrupt.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

namespace minke {
namespace {

// In a process of its own: signals and the flag stay set.
TEST(InterruptDeathTest, TheFirstSetsTheFlagAndTheSecondLeaves) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const auto once = [signal] {
      catch_interrupts();
      if (interrupted()) ::_exit(1);
      ::raise(signal);
      ::_exit(interrupted() ? 0 : 1);
    };
    const auto twice = [signal] {
      catch_interrupts();
      ::raise(signal);
      ::raise(signal);
      ::_exit(0);
    };
    EXPECT_EXIT(once(), testing::ExitedWithCode(0), "stopping after this step");
    EXPECT_EXIT(twice(), testing::ExitedWithCode(130), "leaving at once");
  }
}

TEST(InterruptDeathTest, SaysWhatHappensAndUndoesWork) {
  const auto undone = [] {
    catch_interrupts(kRemovingHalves);
    stop_if_interrupted();
    ::raise(SIGINT);
    try {
      stop_if_interrupted();
    } catch (const Interrupted&) {
      ::_exit(0);
    }
    ::_exit(1);
  };
  EXPECT_EXIT(undone(), testing::ExitedWithCode(0), "removing what is half done; once more");
}

TEST(InterruptDeathTest, UncaughtItEndsTheProcessAsUsual) {
  EXPECT_EXIT(::raise(SIGINT), testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace minke
