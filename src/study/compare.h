// What op cases share: inputs made from a seed, matrices whose rows do not touch, and the worst
// error beside its bound.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ops/matrix.h"
#include "study/op_case.h"

namespace minke::study {

// Normal numbers of that standard deviation (rounded where the dtype is BF16), from a stream named
// `name`: the same on every machine, for any number of threads.
OwnedTensor random_tensor(std::string_view name, DType dtype, Shape shape, double deviation = 1);
// Of two tensors of as many bytes, which may be none.
void copy_bytes(const Tensor& to, const Tensor& from);

// A matrix in memory of its own, `padding` numbers between its rows.
class PaddedMatrix {
 public:
  PaddedMatrix() = default;
  PaddedMatrix(DType dtype, int64_t rows, int64_t cols, int64_t padding);
  static PaddedMatrix random(std::string_view name, DType dtype, int64_t rows, int64_t cols,
                             int64_t padding, double deviation = 1);
  operator ops::Matrix() const {  // NOLINT(google-explicit-constructor): it is one
    return view_;
  }
  const Tensor& memory() const { return memory_; }
  // 0 while nothing was written between the rows.
  Check padding_check(std::string quantity) const;

 private:
  OwnedTensor memory_;
  ops::Matrix view_;
};

// FP32 and BF16, rows one after the other.
std::vector<double> to_double(const ops::Matrix& x);
std::vector<double> magnitudes(std::vector<double> x);

// What bounds of the first order in a rounding are multiplied by, for the orders above.
inline constexpr double kSecondOrder = 1.02;

// The relative error of one rounding to the format.
double roundoff(DType dtype);

// The element that comes nearest to its bound, or exceeds it most. NaN and infinity exceed every
// bound, unless both sides are the same.
Check compare(std::string quantity, std::span<const double> got, std::span<const double> want,
              std::span<const double> bound);
Check compare(std::string quantity, const ops::Matrix& got, std::span<const double> want,
              std::span<const double> bound);
// How many numbers differ, against 0.
Check compare_exactly(std::string quantity, std::span<const double> got,
                      std::span<const double> want);
Check compare_exactly(std::string quantity, const ops::Matrix& got, std::span<const double> want);

// Row lengths that end a loop over vectors in every way: each remainder of 8 and 16 lanes, alone
// and after one vector, after four at a time, and after both.
inline constexpr int64_t kTailSizes[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                                         13, 14, 15, 16, 17, 18, 23, 24, 25, 31, 32, 33,
                                         39, 40, 47, 48, 49, 63, 64, 65, 71, 79, 80, 81};

// "f32" or "bf16", for names of shapes.
std::string_view short_name(DType dtype);

}  // namespace minke::study
