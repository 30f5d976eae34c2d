#include "study/reproduce_fp8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace minke::study {
namespace {

using testing::DoubleEq;
using testing::DoubleNear;
using testing::ElementsAre;

constexpr double kRounding = 1e-14;

TEST(LossDifference, SmoothingForgetsATenthAStepAndBeginsWithTheFirst) {
  EXPECT_THAT(smoothed({4, 4, 4}), ElementsAre(DoubleEq(4), DoubleEq(4), DoubleEq(4)));
  // Weights of 1, 0.9 and 0.81, newest first.
  EXPECT_THAT(smoothed({1, 0, 0}), ElementsAre(DoubleEq(1), DoubleNear(0.9 / 1.9, kRounding),
                                               DoubleNear(0.81 / 2.71, kRounding)));
}

TEST(LossDifference, IsOfTheLastHalf) {
  const LossDifference d = loss_difference({9, 9, 2.2, 1.8}, {9, 9, 2, 2});
  EXPECT_NEAR(d.raw, 0.1, kRounding);  // both a tenth off
  EXPECT_NEAR(d.bias, 0, kRounding);   // in opposite directions
  // Smoothed, the second step still remembers 0.9 of the first one's difference.
  const double third = 9 * (0.9 + 0.81) + 2, fourth = 9 * (0.81 + 0.729) + 2 * 1.9;
  EXPECT_NEAR(d.worst, 0.2 / third, kRounding);
  EXPECT_NEAR(d.smoothed, (0.2 / third + 0.02 / fourth) / 2, kRounding);
}

TEST(LossDifference, NoiseAveragesOutAndABiasStays) {
  std::vector<double> truth(200, 2), noise = truth, bias = truth;
  for (size_t i = 0; i < truth.size(); ++i) {
    noise[i] += i % 2 == 0 ? 0.02 : -0.02;
    bias[i] += 0.02;
  }
  EXPECT_NEAR(loss_difference(noise, truth).raw, 0.01, kRounding);
  EXPECT_LT(loss_difference(noise, truth).smoothed, 0.001);
  EXPECT_NEAR(loss_difference(bias, truth).smoothed, 0.01, kRounding);
}

}  // namespace
}  // namespace minke::study
