// minke reproduce fp8: what it prints, and runs that go on.
#include "app/small_run.h"

namespace minke {
namespace {

using testing::HasSubstr;

TEST(Reproduce, SingleProductsShowWhatTilesAndPromotionAreFor) {
  const Said said = run_program({"reproduce", "fp8"});
  expect_success(said);
  for (const char* row : {"activations with one scale", "gradients in blocks of 128x128",
                          "requantised from 1x128, fp32 scales", "never promoted"}) {
    EXPECT_THAT(said.out, HasSubstr(row));
  }
}

TEST(Reproduce, ThreeRunsAreComparedAndNotRunAgain) {
  const SmallRuns runs;
  std::vector<std::string> line = runs.flags("fp8-runs", {"--steps", "6"});
  line.erase(line.begin(), line.begin() + 2);  // train --no-report
  line.insert(line.begin(), {"reproduce", "fp8"});
  const Said first = run_program(line);
  expect_success(first);
  EXPECT_THAT(first.out, HasSubstr("another data order"));
  EXPECT_THAT(read_file(runs.path("fp8-runs/fp8.html")), HasSubstr("<polyline"));
  const std::string metrics = read_file(runs.path("fp8-runs/fp8/metrics.jsonl"));
  EXPECT_THAT(read_file(runs.path("fp8-runs/fp8/manifest.json")), HasSubstr("\"fp8\""));
  const Said again = run_program(line);
  expect_success(again);
  EXPECT_EQ(again.out, first.out);
  EXPECT_THAT(read_file(runs.path("fp8-runs/fp8/metrics.jsonl")), testing::StartsWith(metrics));

  line.emplace_back("--json");
  const Said said = run_program(line);
  expect_success(said);
  const auto object = nlohmann::json::parse(said.out);
  EXPECT_GT(object.at("products").size(), 10U);
  for (const char* of : {"fp8", "another_data_order"}) {
    const auto& difference = object.at(of);
    EXPECT_GT(difference.at("smoothed"), 0) << of;
    EXPECT_GE(difference.at("worst_smoothed"), difference.at("smoothed")) << of;
    EXPECT_GE(difference.at("raw"), std::abs(difference.at("signed").get<double>())) << of;
  }
}

TEST(Reproduce, RunsNeedAFolder) {
  expect_fault(run_program({"reproduce", "fp8", "--data", "text"}), "--out");
}

}  // namespace
}  // namespace minke
