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
}

TEST(Reproduce, RunsNeedAFolder) {
  expect_fault(run_program({"reproduce", "fp8", "--data", "text"}), "--out");
}

}  // namespace
}  // namespace minke
