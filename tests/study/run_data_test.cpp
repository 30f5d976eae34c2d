// A run's log as pages draw it: as it grows, is cut, is replaced, and is longer than a page can
// hold.
#include "study/run_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "base/error.h"

namespace minke::study {
namespace {

using nlohmann::json;

json step(int64_t n) {
  return {{"event", "step"},
          {"step", n},
          {"loss", 10.0 / static_cast<double>(n)},
          {"tokens", 8 * n},
          {"clipped", n % 2 == 0},
          {"mtp_loss", {1.0, static_cast<double>(n)}}};
}

class RunDataTest : public testing::Test {
 protected:
  void append(const std::string& text) const {
    std::ofstream(folder_ / "metrics.jsonl", std::ios::app) << text;
  }
  TemporaryFolder folder_;
};

TEST_F(RunDataTest, GrowsWithTheLogAndWaitsForWholeLines) {
  RunData data(folder_.path());
  data.refresh();
  EXPECT_TRUE(data.json()["steps"].empty());
  append(step(1).dump() + "\n" + step(2).dump().substr(0, 9));
  const std::string before = data.version();
  data.refresh();
  EXPECT_NE(data.version(), before);
  EXPECT_EQ(data.json()["steps"], json::array({step(1)}));
  const std::string after = data.version();
  data.refresh();
  EXPECT_EQ(data.version(), after);
  append(step(2).dump().substr(9) + "\n");
  data.refresh();
  EXPECT_EQ(data.json()["steps"], json::array({step(1), step(2)}));
}

TEST_F(RunDataTest, ALogThatIsReplacedIsReadAgain) {
  RunData data(folder_.path());
  append(step(1).dump() + "\n" + step(2).dump() + "\n");
  data.refresh();
  // As long as the one before.
  write_file_atomic(folder_ / "metrics.jsonl", step(3).dump() + "\n" + step(4).dump() + "\n");
  data.refresh();
  EXPECT_EQ(data.json()["steps"], json::array({step(3), step(4)}));
}

TEST_F(RunDataTest, AFaultIsNamedByItsLineAsOftenAsAsked) {
  for (const char* bad : {"nonsense", R"({"event": 5, "step": 2})", R"({"event": "eval"})",
                          R"({"event": "eval", "step": 2, "whole": "yes"})"}) {
    write_file_atomic(folder_ / "metrics.jsonl", step(1).dump() + "\n" + bad + "\n");
    RunData data(folder_.path());
    for (int i = 0; i < 2; ++i) {
      EXPECT_THAT([&] { data.refresh(); },
                  testing::ThrowsMessage<Error>(testing::HasSubstr("metrics.jsonl:2: ")))
          << bad;
    }
  }
}

// Each point stands for so many steps: together they have the steps' mean, and the ends of their
// losses are the run's.
TEST(ThinnedEvents, AreMeansOfNeighbours) {
  for (const int64_t count : {1, 7, 8, 9, 16, 17, 100, 1000, 1023}) {
    ThinnedEvents thinned(8);
    for (int64_t n = 1; n <= count; ++n) thinned.add(step(n));
    const auto& events = thinned.events();
    ASSERT_LE(events.size(), 8U);
    EXPECT_GE(events.size(), count >= 8 ? 4U : 1U) << count;
    double sum = 0, losses = 0, most = 0, least = INFINITY;
    int64_t before = 0;
    for (const json& event : events) {
      const auto now = event["step"].get<int64_t>();
      const auto weight = static_cast<double>(now - before);
      sum += weight * event["mtp_loss"][1].get<double>();
      losses += weight * event["loss"].get<double>();
      const json range = event.value("loss_range", json{event["loss"], event["loss"]});
      least = std::min(least, range[0].get<double>());
      most = std::max(most, range[1].get<double>());
      EXPECT_EQ(event["tokens"], 8 * now);
      EXPECT_EQ(event["mtp_loss"][0], 1);
      before = now;
    }
    EXPECT_EQ(before, count);
    const auto n = static_cast<double>(count);
    EXPECT_NEAR(sum, n * (n + 1) / 2, 1e-9 * sum);
    double all = 0;
    for (int64_t i = 1; i <= count; ++i) all += 10.0 / static_cast<double>(i);
    EXPECT_NEAR(losses, all, 1e-9 * all);
    EXPECT_EQ(most, 10.0);
    EXPECT_EQ(least, 10.0 / n);
  }
}

}  // namespace
}  // namespace minke::study
