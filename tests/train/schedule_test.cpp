// Batch, learning rate, gamma and lambda over a run.
#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace minke::train {
namespace {

Options plain(int64_t steps) {
  Options o;
  o.data = {"-"};
  o.steps = steps;
  o.batch = 4;
  o.lr = 1;
  o.min_lr = 0.1;
  o.warmup = 10;
  return o;
}

TEST(Schedule, WarmUpConstantCosineAndTwoConstants) {
  Options o = plain(110);
  o.constant = 0.3;
  o.hold = 0.2;
  o.final_part = 0.1;
  o.final_lr = 0.05;
  check(o);
  const Schedule schedule(o);
  EXPECT_EQ(schedule.rows(), 440);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(1), 0.1);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(10), 1);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(40), 1);
  EXPECT_LT(schedule.learning_rate(41), 1);
  EXPECT_NEAR(schedule.learning_rate(60), 0.55, 1e-12);  // the middle of the cosine
  EXPECT_GT(schedule.learning_rate(79), 0.1);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(80), 0.1);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(100), 0.1);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(101), 0.05);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(110), 0.05);
  for (int64_t step = 2; step <= 110; ++step) {
    const double change = schedule.learning_rate(step) - schedule.learning_rate(step - 1);
    EXPECT_TRUE(step <= 10 ? change > 0 : change <= 0) << step;
  }
}

TEST(Schedule, WithoutMoreItIsACosineThatEndsAtTheLowestRate) {
  const Schedule schedule(plain(110));
  EXPECT_DOUBLE_EQ(schedule.learning_rate(10), 1);
  EXPECT_LT(schedule.learning_rate(11), 1);
  EXPECT_NEAR(schedule.learning_rate(60), 0.55, 1e-12);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(110), 0.1);
  EXPECT_EQ(schedule.gamma(110), 1e-3);
  EXPECT_EQ(schedule.mtp_lambda(110), 0.3);
}

TEST(Schedule, AWarmUpThatIsGivenIsTaken) {
  Options o = plain(10);
  o.warmup = 8;
  EXPECT_DOUBLE_EQ(Schedule(o).learning_rate(4), 0.5);
  o.warmup = 20;
  EXPECT_DOUBLE_EQ(Schedule(o).learning_rate(10), 0.5);
  o.warmup = 0;
  EXPECT_GT(Schedule(o).learning_rate(1), 0.9);
  o.warmup = Options().warmup;
  EXPECT_DOUBLE_EQ(Schedule(o).learning_rate(1), 0.5);  // a fifth of the run
  o.steps = 1000;
  EXPECT_DOUBLE_EQ(Schedule(o).learning_rate(25), 0.5);
  EXPECT_DOUBLE_EQ(Schedule(o).learning_rate(50), 1);
}

TEST(Schedule, ABatchThatGrowsReadsEveryRowOnce) {
  for (const int64_t start : {1, 3, 7, 8}) {
    Options o = plain(200);
    o.batch = 8;
    o.batch_start = start;
    o.batch_ramp = 0.4;
    check(o);
    const Schedule schedule(o);
    EXPECT_EQ(schedule.batch(1), start);
    EXPECT_EQ(schedule.batch(200), 8);
    int64_t rows = 0;
    for (int64_t step = 1; step <= 200; ++step) {
      EXPECT_EQ(schedule.rows(step - 1), rows);
      rows += schedule.batch(step);
      if (step > 1) {
        EXPECT_GE(schedule.batch(step), schedule.batch(step - 1));
      }
      // The whole part of a line over what was read, but for the steps at its corners.
      const double read = static_cast<double>(rows) / static_cast<double>(schedule.rows());
      const double line = static_cast<double>(start) +
                          static_cast<double>(8 - start) * std::min(1.0, read / o.batch_ramp);
      EXPECT_LE(static_cast<double>(schedule.batch(step)), line + 0.2) << start << ", " << step;
      EXPECT_GE(static_cast<double>(schedule.batch(step)), line - 1.2) << start << ", " << step;
    }
    EXPECT_EQ(schedule.rows(), rows);
    EXPECT_NEAR(static_cast<double>(steps_for(o, static_cast<double>(rows))), 200, 4);
  }
}

// Section 4.2 of the report, by its own figures.
TEST(Schedule, DeepSeekV3) {
  constexpr double kTokens = 14.8e12, kRow = 4096;
  Options o;
  o.data = {"-"};
  o.seq = 4096;
  o.batch = 15360;
  o.batch_start = 3072;
  o.batch_ramp = 469e9 / kTokens;
  o.steps = steps_for(o, kTokens / kRow);
  o.warmup = 2000;
  o.lr = 2.2e-4;
  o.min_lr = 2.2e-5;
  o.constant = 10e12 / kTokens;
  o.hold = 333e9 / kTokens;
  o.final_part = 167e9 / kTokens;
  o.final_lr = 7.3e-6;
  o.mtp_lambda_until = 10e12 / kTokens;
  o.gamma_until = 14.3e12 / kTokens;
  check(o);
  const Schedule schedule(o);
  EXPECT_NEAR(static_cast<double>(schedule.rows()) * kRow, kTokens, 1e-4 * kTokens);
  const auto step_at = [&](double tokens) {
    int64_t low = 0, high = o.steps;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (static_cast<double>(schedule.rows(middle)) * kRow < tokens) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  EXPECT_EQ(schedule.batch(1), 3072);
  EXPECT_NEAR(static_cast<double>(schedule.batch(step_at(469e9 / 2))), 9216, 20);
  EXPECT_EQ(schedule.batch(step_at(475e9)), 15360);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(1000), 1.1e-4);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(step_at(9.9e12)), 2.2e-4);
  EXPECT_LT(schedule.learning_rate(step_at(10.2e12)), 2.2e-4);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(step_at(14.4e12)), 2.2e-5);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(o.steps), 7.3e-6);
  EXPECT_EQ(schedule.mtp_lambda(step_at(9.9e12)), 0.3);
  EXPECT_EQ(schedule.mtp_lambda(step_at(10.1e12)), 0.1);
  EXPECT_EQ(schedule.gamma(step_at(14.2e12)), 1e-3);
  EXPECT_EQ(schedule.gamma(step_at(14.4e12)), 0);
}

TEST(Schedule, WhatMakesNoSenseIsRefused) {
  const auto refused = [](auto&& change) {
    Options o = plain(100);
    change(o);
    EXPECT_THROW(check(o), Error);
  };
  refused([](Options& o) { o.batch_start = 2; });
  refused([](Options& o) { o.batch_ramp = 0.1; });
  refused([](Options& o) { o.batch_start = 5, o.batch_ramp = 0.1; });
  refused([](Options& o) { o.constant = 0.7, o.hold = 0.4; });
  refused([](Options& o) { o.final_lr = 2; });
  refused([](Options& o) { o.no_decay = {"norms"}; });
  refused([](Options& o) { o.ema = 1; });
  Options o = plain(100);
  o.constant = 0.9, o.final_part = 0.1;
  EXPECT_NO_THROW(check(o));
}

}  // namespace
}  // namespace minke::train
