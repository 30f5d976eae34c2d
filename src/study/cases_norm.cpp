// RMSNorm and its backward. u is the roundoff of FP32; bounds are to first order in u, with every
// constant rounded up.
#include <fmt/format.h>

#include <cmath>

#include "ops/norm.h"
#include "ref/norm.h"
#include "study/compare.h"

namespace minke::study {
namespace {

using Doubles = std::vector<double>;
constexpr double kU = kRoundoffF32;
constexpr float kEps = 1e-6F;

struct Size {
  int64_t T, D;
  int64_t padding = 0;
};

std::string shape_name(const Size& size, std::string_view formats) {
  return fmt::format("{}x{}{} {}", size.T, size.D, size.padding > 0 ? " strided" : "", formats);
}

// A sum of D products in four or more running sums: this many roundings meet any of its terms.
double chain(int64_t D) { return static_cast<double>(D) / 4 + 8; }

class RmsNormRun final : public OpRun {
 public:
  RmsNormRun(const Size& size, DType y, DType x)
      : size_(size),
        x_(PaddedMatrix::random("x", x, size.T, size.D, size.padding)),
        w_(random_tensor("w", DType::kF32, {size.D})),
        y_(y, size.T, size.D, size.padding),
        rstd_(DType::kF32, {size.T}) {}
  void run() override { ops::rms_norm(y_, rstd_, x_, w_, kEps); }
  std::vector<Check> check() override {
    const Doubles x = to_double(x_), w = to_double(w_);
    Doubles y(x.size()), rstd;
    ref::rms_norm<double>(y, x, w, size_.T, size_.D, static_cast<double>(kEps));
    for (int64_t t = 0; t < size_.T; ++t) {
      rstd.push_back(ref::inverse_rms<double>(std::span(x).subspan(t * size_.D, size_.D),
                                              static_cast<double>(kEps)));
    }
    // The sum of squares is all positive; the root halves its error; mean, eps, root, inverse.
    const double rstd_error = (chain(size_.D) / 2 + 5) * kU;
    const double y_error = rstd_error + 2 * kU + roundoff(ops::Matrix(y_).dtype);
    Doubles y_bound, rstd_bound;
    for (const double v : y) y_bound.push_back(y_error * std::abs(v));
    for (const double v : rstd) rstd_bound.push_back(rstd_error * v);
    return {compare("y", ops::Matrix(y_), y, y_bound),
            compare("rstd", rstd_.as({size_.T, 1}), rstd, rstd_bound), y_.padding_check("y")};
  }
  std::vector<Tensor> outputs() override { return {y_.memory(), rstd_}; }

 private:
  Size size_;
  PaddedMatrix x_;
  OwnedTensor w_;
  PaddedMatrix y_;
  OwnedTensor rstd_;
};

class RmsNormBackwardRun final : public OpRun {
 public:
  RmsNormBackwardRun(const Size& size, DType dx, DType dy, DType x, bool accumulate)
      : size_(size),
        accumulate_(accumulate),
        x_(PaddedMatrix::random("x", x, size.T, size.D, size.padding)),
        dy_(PaddedMatrix::random("dy", dy, size.T, size.D, size.padding)),
        w_(random_tensor("w", DType::kF32, {size.D})),
        dx_before_(PaddedMatrix::random("dx", dx, size.T, size.D, size.padding)),
        dw_before_(random_tensor("dw", DType::kF32, {size.D})),
        dx_(dx, size.T, size.D, size.padding),
        dw_(DType::kF32, {size.D}),
        rstd_(DType::kF32, {size.T}),
        scratch_(static_cast<size_t>(65 * size.D) * sizeof(float) + 4096) {
    const Doubles numbers = to_double(x_);
    for (int64_t t = 0; t < size.T; ++t) {
      rstd_.span<float>()[static_cast<size_t>(t)] = static_cast<float>(ref::inverse_rms<double>(
          std::span(numbers).subspan(t * size.D, size.D), static_cast<double>(kEps)));
    }
  }
  void run() override {
    std::ranges::copy(dw_before_.span<float>(), dw_.data<float>());
    if (accumulate_) {
      for (int64_t t = 0; t < size_.T; ++t) {
        std::copy_n(ops::Matrix(dx_before_).row<float>(t), size_.D, ops::Matrix(dx_).row<float>(t));
      }
    }
    ops::rms_norm_backward(dx_, accumulate_, dw_, dy_, x_, rstd_, w_, scratch_);
  }
  std::vector<Check> check() override {
    const auto [T, D, padding] = size_;
    const Doubles x = to_double(x_), dy = to_double(dy_), w = to_double(w_);
    Doubles dx = accumulate_ ? to_double(dx_before_) : Doubles(x.size());
    Doubles dw = to_double(dw_before_), dx_bound(dx.size()), dw_bound;
    // T products and what was there, in any order: T + 5 roundings meet any of them.
    for (const double v : dw) dw_bound.push_back(static_cast<double>(T + 5) * kU * std::abs(v));
    ref::rms_norm_backward<double>(dx, dw, dy, x, w, T, D, static_cast<double>(kEps));
    const double format = roundoff(ops::Matrix(dx_).dtype);
    for (int64_t t = 0; t < T; ++t) {
      const double r =
          ref::inverse_rms<double>(std::span(x).subspan(t * D, D), static_cast<double>(kEps));
      double sum = 0;
      for (int64_t i = 0; i < D; ++i) sum += std::abs(dy[t * D + i] * w[i] * x[t * D + i]);
      for (int64_t i = 0; i < D; ++i) {
        const int64_t at = t * D + i;
        // r (g - xh mean): g = dy w and mean = sum r / D by their magnitudes.
        const double g = std::abs(dy[at] * w[i]), xh = std::abs(x[at] * r);
        const double through_mean = xh * sum * r / static_cast<double>(D);
        dx_bound[at] = r * (5 * kU * g + (chain(D) + 12) * kU * through_mean) +
                       (format + 2 * kU) * std::abs(dx[at]);
        dw_bound[i] += static_cast<double>(T + 5) * kU * std::abs(dy[at]) * xh;
      }
    }
    return {compare("dx", ops::Matrix(dx_), dx, dx_bound), compare("dw", dw_, dw, dw_bound),
            dx_.padding_check("dx")};
  }
  std::vector<Tensor> outputs() override { return {dx_.memory(), dw_}; }

 private:
  Size size_;
  bool accumulate_;
  PaddedMatrix x_, dy_;
  OwnedTensor w_;
  PaddedMatrix dx_before_;
  OwnedTensor dw_before_;
  PaddedMatrix dx_;
  OwnedTensor dw_, rstd_;
  Arena scratch_;
};

constexpr DType kFormats[] = {DType::kF32, DType::kBF16};

void add_forward(OpCases& cases, const Size& size, DType y, DType x, bool bench) {
  const auto numbers = static_cast<double>(size.T * size.D);
  cases.push_back({.op = "rms_norm",
                   .shape = shape_name(size, fmt::format("{}<-{}", short_name(y), short_name(x))),
                   .limit = Limit::kMemory,
                   .work = numbers * static_cast<double>(size_of(y) + size_of(x)),
                   .fresh = numbers * static_cast<double>(size_of(y)),
                   .bench = bench,
                   .make = [=] { return std::make_unique<RmsNormRun>(size, y, x); }});
}

void add_backward(OpCases& cases, const Size& size, DType dx, DType dy, DType x, bool accumulate,
                  bool bench) {
  const auto numbers = static_cast<double>(size.T * size.D);
  const size_t dx_bytes = size_of(dx) * (accumulate ? 2 : 1);
  cases.push_back(
      {.op = "rms_norm_backward",
       .shape = shape_name(size, fmt::format("{}{}<-{},{}", accumulate ? "+" : "", short_name(dx),
                                             short_name(dy), short_name(x))),
       .limit = Limit::kMemory,
       .work = numbers * static_cast<double>(dx_bytes + size_of(dy) + size_of(x)),
       .fresh = accumulate ? 0 : numbers * static_cast<double>(dx_bytes),
       .bench = bench,
       .make = [=] { return std::make_unique<RmsNormBackwardRun>(size, dx, dy, x, accumulate); }});
}

}  // namespace

void add_norm_cases(OpCases& cases) {
  std::vector<Size> sizes{{0, 5}, {67, 300}, {300, 67}, {3, 129, 5}};
  for (const int64_t D : kTailSizes) sizes.push_back({2, D, D % 3});
  for (const Size& size : sizes) {
    for (const DType a : kFormats) {
      for (const DType b : kFormats) {
        add_forward(cases, size, a, b, false);
        add_backward(cases, size, DType::kF32, a, b, true, false);
        for (const DType dx : kFormats) add_backward(cases, size, dx, a, b, false, false);
      }
    }
  }
  for (const DType format : kFormats) {
    const Size size{16384, 2048};  // no cache holds it
    add_forward(cases, size, format, format, true);
    add_backward(cases, size, format, format, format, false, true);
  }
}

}  // namespace minke::study
