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

struct Fp8Runs {
  bool finished = false;  // all three runs are; if not, another call goes on
  // Means of |loss - loss in BF16| / loss in BF16 over the last half of the steps, and of the same
  // with its sign: of FP8, and of BF16 that reads its data in another order.
  double fp8 = 0, fp8_signed = 0, floor = 0, floor_signed = 0;
};
// Trains in `out`/bf16, `out`/fp8 and `out`/other-order, going on where they are; writes
// `out`/fp8.html.
Fp8Runs reproduce_fp8(train::Options options, const fs::path& out);

}  // namespace minke::study
