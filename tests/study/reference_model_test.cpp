// The float64 model against the goldens of the oracle, which shares no code with it.
#include "study/reference_model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "study/verify_folder.h"

namespace minke::study {
namespace {

constexpr const char* kCases[] = {"v3",           "v3-yarn",
                                  "v3-yarn-ramp", "v3-negative-bias",
                                  "v3-odd-sizes", "v3-packed-mtp2",
                                  "moonlight",    "kimi-k2",
                                  "v2-lite",      "v2",
                                  "v3-fp8",       "v3-softmax",
                                  "v2-normed"};

// Goldens are float64 rounded to FP32, each number to 2^-24 of itself; what is left is the order of
// float64 sums. golden.json holds float64 in full.
constexpr double kFileRoundoff = 0x1p-24, kSumError = 1e-12;

double relative_difference(const std::vector<double>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

class GoldenCase : public testing::TestWithParam<const char*> {
 protected:
  GoldenFolder folder_ = read_golden_folder(fs::path(MINKE_GOLDEN_DIR) / GetParam());
  ReferenceModel model_{folder_.config.model, read_weights(*folder_.files, folder_.config.model)};
};

TEST_P(GoldenCase, LacksNothing) { EXPECT_TRUE(folder_.lacks.empty()) << folder_.lacks.front(); }

TEST_P(GoldenCase, AllNumbersAgree) {
  const ReferenceResult got = model_.run(folder_.batch, {});
  for (const auto& [name, want] : folder_.golden.numbers) {
    ASSERT_TRUE(got.numbers.contains(name)) << name;
    const std::vector<double>& numbers = got.numbers.at(name);
    ASSERT_EQ(numbers.size(), want.size()) << name;
    const bool from_json = want.size() == 1;
    EXPECT_LE(relative_difference(numbers, want), from_json ? kSumError : kFileRoundoff) << name;
  }
  EXPECT_EQ(got.experts, folder_.golden.experts);
  EXPECT_EQ(got.counts, folder_.golden.counts);
}

TEST_P(GoldenCase, GreedyTextAgrees) {
  EXPECT_EQ(model_.continue_greedily(folder_.prompt, std::ssize(folder_.greedy)), folder_.greedy);
}

TEST_P(GoldenCase, AbsorbedAttentionIsTheSameFunction) {
  ReferenceOptions options;
  options.gradients = false;
  const ReferenceResult expanded = model_.run(folder_.batch, options);
  options.absorbed = true;
  const ReferenceResult absorbed = model_.run(folder_.batch, options);
  for (const auto& [name, want] : expanded.numbers) {
    EXPECT_LE(relative_difference(absorbed.numbers.at(name), want), kSumError) << name;
  }
}

TEST_P(GoldenCase, RoundingChangesEverythingALittle) {
  ReferenceOptions options;
  options.forced = folder_.golden.experts;
  const ReferenceResult exact = model_.run(folder_.batch, options);
  for (const auto& [name, value] : exact.numbers) {
    if (name.ends_with(".fractions")) options.fractions[name] = value;
  }
  options.rounding = {.size = kRoundoffBF16, .seed = 1};
  const ReferenceResult rounded = model_.run(folder_.batch, options);
  // At most 15 roundings lie behind one another in a layer, and as many on the way back.
  const auto longest = static_cast<double>(30 * folder_.config.model.layers());
  for (const auto& [name, want] : exact.numbers) {
    if (name.ends_with(".fractions") || name.ends_with(".bias_after")) continue;
    const double norm = relative_difference(std::vector<double>(want.size()), want);
    const double error = relative_difference(rounded.numbers.at(name), want);
    if (norm == 0) {
      EXPECT_EQ(error, 0) << name;  // an expert without tokens
      continue;
    }
    EXPECT_GT(error, 0) << name;
    EXPECT_LT(error, longest * kRoundoffBF16) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, GoldenCase, testing::ValuesIn(kCases), [](const auto& param) {
  std::string name = param.param;
  std::ranges::replace(name, '-', '_');
  return name;
});

}  // namespace
}  // namespace minke::study
