#include "study/tensor_core.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "tensor/number.h"

namespace minke::study {
namespace {

TEST(TensorCore, SmallWholeNumbersAreExact) {
  const std::vector<float> a(96, 2), b(96, 3);
  EXPECT_EQ(tensor_core_dot(a, b, 0), 576);
  EXPECT_EQ(tensor_core_dot(a, b, 32), 576);
}

TEST(TensorCore, FourteenBitsAreKeptOfTheLargest) {
  std::vector<float> a(32), b(32, 1);
  a[0] = 8192;  // 2^13: the lowest bit that is kept is 1
  a[1] = 1.75F;
  a[2] = -1.75F;
  a[3] = 0.75F;
  EXPECT_EQ(tensor_core_dot(a, b, 0), 8192);  // 1 - 1 + 0
  a[2] = 0;
  EXPECT_EQ(tensor_core_dot(a, b, 0), 8193);
}

// Root mean square of the error of sums of k products of E4M3, beside that of the sums.
double relative_error(int64_t k, int64_t promote) {
  constexpr int kSums = 200;
  double error = 0, size = 0;
  Rng rng(stream_key(1, 0, "products"));
  for (int s = 0; s < kSums; ++s) {
    std::vector<float> a, b;
    double exact = 0;
    for (int64_t i = 0; i < k; ++i) {
      // Uniform, as of numbers with a mean: the sum grows with k.
      a.push_back(e4m3_decode(e4m3_encode(static_cast<float>(rng.uniform() * 448))));
      b.push_back(e4m3_decode(e4m3_encode(static_cast<float>(rng.uniform() * 448))));
      exact += double{a.back()} * double{b.back()};
    }
    const double difference = double{tensor_core_dot(a, b, promote)} - exact;
    error += difference * difference;
    size += exact * exact;
  }
  return std::sqrt(error / size);
}

// Each of k / 32 additions cuts about half of 2^-13 of the sum off, and every product as much of
// itself: the error of a sum that grows is proportional to k. Promoted, it is that of 128 numbers.
TEST(TensorCore, TheErrorGrowsWithoutPromotionAndNotWithIt) {
  const double at_512 = relative_error(512, 0), at_4096 = relative_error(4096, 0);
  EXPECT_GT(at_4096, 4 * at_512);
  EXPECT_GT(at_4096, 5e-3);
  const double promoted_512 = relative_error(512, 128), promoted_4096 = relative_error(4096, 128);
  EXPECT_LT(promoted_4096, 1.1 * promoted_512);
  EXPECT_LT(promoted_4096, at_4096 / 10);
}

}  // namespace
}  // namespace minke::study
