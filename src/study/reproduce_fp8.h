// What the V3 report says of FP8, measured here: losses of the same model trained in BF16 and in
// FP8 (its appendix B.1), and what single products lose without its fine tiles, without promotion
// and with an operand quantised twice (sections 3.3.2 and 5, appendix B.2).
#pragma once

#include <string>
#include <vector>

#include "base/file.h"
#include "train/options.h"

namespace minke::study {

// A product's error, norm of the difference over norm, under one way of doing it.
struct ProductError {
  std::string what, how;
  double error = 0;
};
std::vector<ProductError> fp8_products();

// How far a run's losses are from another's over the last half of the steps, relative to the
// other's. The report's figure smooths both curves first, by an exponential moving average.
inline constexpr double kLossSmoothing = 0.9;
struct LossDifference {
  double smoothed = 0, worst = 0;  // mean and largest magnitude, of smoothed losses
  double raw = 0, bias = 0;        // mean magnitude, and mean with its sign, of each step's
};
std::vector<double> smoothed(const std::vector<double>& losses);
LossDifference loss_difference(const std::vector<double>& losses, const std::vector<double>& other);

struct Fp8Runs {
  bool finished = false;  // all three runs are; if not, another call goes on
  // From BF16: of FP8, and of BF16 that reads its data in another order.
  LossDifference fp8, other_order;
};
// Trains in `out`/bf16, `out`/fp8 and `out`/other-order, going on where they are; writes
// `out`/fp8.html.
Fp8Runs reproduce_fp8(train::Options options, const fs::path& out);

}  // namespace minke::study
