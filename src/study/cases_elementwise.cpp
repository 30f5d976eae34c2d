// SwiGLU and its backward, conversion, addition, sum of squares, AdamW. u is the roundoff of FP32;
// bounds are to first order in u, with every constant rounded up.
#include <fmt/format.h>

#include <cmath>

#include "ops/adamw.h"
#include "ops/elementwise.h"
#include "ref/activation.h"
#include "ref/adamw.h"
#include "study/compare.h"

namespace minke::study {
namespace {

using Doubles = std::vector<double>;
constexpr double kU = kRoundoffF32;
constexpr DType kFormats[] = {DType::kF32, DType::kBF16};

// The relative error of sigmoid(x) = 1 / (1 + e^-x), in units of u: e^x is within 2 units in the
// last place (4 u), then a sum and a division.
constexpr double kSigmoid = 6;
// Where e^-x overflows, sigmoid(x) is 0 and should have been less than this.
constexpr double kSmallest = 0x1p-126;

struct Size {
  int64_t rows, cols;
  int64_t padding = 0;
};

std::string shape_name(const Size& size, std::string_view formats) {
  return fmt::format("{}x{}{} {}", size.rows, size.cols, size.padding > 0 ? " strided" : "",
                     formats);
}

double numbers(const Size& size) { return static_cast<double>(size.rows * size.cols); }

class SwigluRun final : public OpRun {
 public:
  SwigluRun(const Size& size, DType h, DType x, bool weighted)
      : size_(size),
        x_(PaddedMatrix::random("gate_up", x, size.rows, 2 * size.cols, size.padding, 4)),
        h_(h, size.rows, size.cols, size.padding) {
    if (weighted) weight_ = random_tensor("weight", DType::kF32, {size.rows});
  }
  void run() override { ops::swiglu(h_, x_, weight_); }
  std::vector<Check> check() override {
    const Doubles x = to_double(x_), weight = weight_.empty() ? Doubles() : to_double(weight_);
    Doubles h(static_cast<size_t>(size_.rows * size_.cols)), bound;
    ref::swiglu<double>(h, x, weight, size_.rows, size_.cols);
    // Three products after the sigmoid.
    const double error = (kSigmoid + 3) * kU + roundoff(ops::Matrix(h_).dtype);
    for (const double v : h) bound.push_back(error * std::abs(v) + 1000 * kSmallest);
    return {compare("h", ops::Matrix(h_), h, bound), h_.padding_check("h")};
  }
  std::vector<Tensor> outputs() override { return {h_.memory()}; }

 private:
  Size size_;
  PaddedMatrix x_;
  OwnedTensor weight_;
  PaddedMatrix h_;
};

class SwigluBackwardRun final : public OpRun {
 public:
  SwigluBackwardRun(const Size& size, DType dx, DType dh, DType x, bool weighted)
      : size_(size),
        x_(PaddedMatrix::random("gate_up", x, size.rows, 2 * size.cols, size.padding, 4)),
        dh_(PaddedMatrix::random("dh", dh, size.rows, size.cols, size.padding)),
        dx_(dx, size.rows, 2 * size.cols, size.padding),
        h_(x, size.rows, size.cols, size.padding),
        forward_(x, size.rows, size.cols, size.padding) {
    if (!weighted) return;
    weight_ = random_tensor("weight", DType::kF32, {size.rows});
    dweight_ = OwnedTensor(DType::kF32, {size.rows});
  }
  void run() override {
    ops::swiglu_backward(dx_, dweight_, again() ? ops::Matrix(h_) : ops::Matrix(), dh_, x_,
                         weight_);
  }
  std::vector<Check> check() override {
    const int64_t T = size_.rows, F = size_.cols;
    const Doubles x = to_double(x_), dh = to_double(dh_),
                  weight = weight_.empty() ? Doubles() : to_double(weight_);
    Doubles dx(x.size()), dweight(weight.size()), dx_bound(x.size()), dweight_bound(weight.size());
    ref::swiglu_backward<double>(dx, dweight, dh, x, weight, T, F);
    const double format = roundoff(ops::Matrix(dx_).dtype);
    for (int64_t t = 0; t < T; ++t) {
      const double w = weight.empty() ? 1 : std::abs(weight[t]);
      for (int64_t i = 0; i < F; ++i) {
        const double gate = x[t * 2 * F + i], up = std::abs(x[t * 2 * F + F + i]);
        const double d = std::abs(dh[t * F + i]), s = ref::sigmoid(gate);
        // slope = s + a (1 - s) = s q, q = 1 + g (1 - s). What a and s are divided by is off by 5
        // u, which q is multiplied by; each quotient by its own u, and 1 - s by 6 u s + u (1 - s).
        // The u of s itself is at most u (q + g (1 - s)).
        const double g = std::abs(gate), q = std::abs(1 + gate * (1 - s));
        const double slope = s * (g * (kSigmoid * s + 3 * (1 - s)) + (kSigmoid + 6) * q) * kU;
        const int64_t at = t * 2 * F + i;
        dx_bound[at] = d * w * up * slope + format * std::abs(dx[at]) + 1000 * kSmallest;
        dx_bound[at + F] = (d * w * g * s) * (kSigmoid + 3) * kU + format * std::abs(dx[at + F]) +
                           1000 * kSmallest;
        if (!weight.empty()) {
          dweight_bound[t] += d * g * s * up * (kSigmoid + 3 + static_cast<double>(F) / 4 + 8) * kU;
        }
      }
    }
    std::vector<Check> checks{compare("d_gate_up", ops::Matrix(dx_), dx, dx_bound),
                              dx_.padding_check("d_gate_up")};
    if (again()) {
      ops::swiglu(forward_, x_, weight_);
      checks.push_back(compare_exactly("h", ops::Matrix(h_), to_double(forward_)));
      checks.push_back(h_.padding_check("h"));
    }
    if (!weight.empty()) {
      checks.push_back(compare("dweight", dweight_, dweight, dweight_bound));
    }
    return checks;
  }
  std::vector<Tensor> outputs() override {
    if (dweight_.empty()) return {dx_.memory()};
    return {dx_.memory(), dweight_};
  }

 private:
  // Of weighted ones, the output is asked for, too.
  bool again() const { return !weight_.empty(); }

  Size size_;
  PaddedMatrix x_, dh_;
  OwnedTensor weight_, dweight_;
  PaddedMatrix dx_, h_, forward_;
};

class ConvertRun final : public OpRun {
 public:
  ConvertRun(const Size& size, DType to, DType from)
      : from_(PaddedMatrix::random("x", from, size.rows, size.cols, size.padding)),
        to_(to, size.rows, size.cols, 2 * size.padding) {}
  void run() override { ops::convert(to_, from_); }
  std::vector<Check> check() override {
    Doubles want = to_double(from_);
    if (ops::Matrix(to_).dtype == DType::kBF16) {
      for (double& v : want)
        v = static_cast<double>(static_cast<float>(bf16(static_cast<float>(v))));
    }
    return {compare_exactly("y", ops::Matrix(to_), want), to_.padding_check("y")};
  }
  std::vector<Tensor> outputs() override { return {to_.memory()}; }

 private:
  PaddedMatrix from_, to_;
};

class AddRun final : public OpRun {
 public:
  AddRun(const Size& size, DType x)
      : x_(PaddedMatrix::random("x", x, size.rows, size.cols, size.padding)),
        before_(PaddedMatrix::random("y", DType::kF32, size.rows, size.cols, size.padding)),
        y_(DType::kF32, size.rows, size.cols, size.padding) {}
  void run() override {
    ops::convert(y_, before_);
    ops::add(y_, x_);
  }
  std::vector<Check> check() override {
    const Doubles x = to_double(x_);
    Doubles want = to_double(before_);
    for (size_t i = 0; i < want.size(); ++i) {
      want[i] = static_cast<double>(static_cast<float>(want[i]) + static_cast<float>(x[i]));
    }
    return {compare_exactly("y", ops::Matrix(y_), want), y_.padding_check("y")};
  }
  std::vector<Tensor> outputs() override { return {y_.memory()}; }

 private:
  PaddedMatrix x_, before_, y_;
};

class SumOfSquaresRun final : public OpRun {
 public:
  explicit SumOfSquaresRun(int64_t n) : x_(random_tensor("x", DType::kF32, {n, 1})) {}
  void run() override { *sum_.data<double>() = ops::sum_of_squares(x_); }
  std::vector<Check> check() override {
    double want = 0;
    for (const double v : to_double(x_)) want += v * v;
    // Squares of FP32 are exact in float64; n additions on either side.
    const double bound = 2 * static_cast<double>(x_.count()) * 0x1p-53 * want;
    return {compare("sum", sum_.span<double>(), std::span(&want, 1), std::span(&bound, 1))};
  }
  std::vector<Tensor> outputs() override { return {sum_}; }

 private:
  OwnedTensor x_, sum_{DType::kF64, {1}};
};

class AdamWRun final : public OpRun {
 public:
  AdamWRun(int64_t n, DType moments, bool bench) : bench_(bench) {
    const OwnedTensor v = random_tensor("v", DType::kF32, {n}, 0.1);
    for (float& x : v.span<float>()) x = x * x;
    before_.push_back(random_tensor("w", DType::kF32, {n}, 0.1));
    before_.push_back(random_tensor("m", moments, {n}, 0.1));
    before_.emplace_back(moments, Shape{n});
    ops::convert(before_.back(), v);
    before_.push_back(random_tensor("g", DType::kF32, {n}, 0.1));
    if (bench) return;
    for (size_t i = 0; i < 3; ++i) after_.emplace_back(before_[i].dtype(), Shape{n});
  }
  void run() override {
    if (!bench_) {
      for (size_t i = 0; i < 3; ++i) ops::convert(after_[i], before_[i]);
    }
    const std::vector<OwnedTensor>& state = bench_ ? before_ : after_;
    const ops::AdamWUpdate update{state[0], state[1], state[2], before_[3], kDecay, {}, {}};
    ops::adamw(std::span(&update, 1), kHow);
  }
  std::vector<Check> check() override {
    if (bench_) return {};
    Doubles w = to_double(before_[0]), m = to_double(before_[1]), v = to_double(before_[2]);
    const Doubles g = to_double(before_[3]), w0 = w, m0 = m;
    const ref::AdamW how{static_cast<double>(kHow.lr),
                         static_cast<double>(kHow.beta1),
                         static_cast<double>(kHow.beta2),
                         static_cast<double>(kHow.eps),
                         static_cast<double>(kDecay),
                         kHow.step,
                         static_cast<double>(kHow.gradient_scale)};
    ref::adamw(w, m, v, g, how);
    Doubles w_bound, m_bound, v_bound;
    for (size_t i = 0; i < w.size(); ++i) {
      // 1 - beta, the scaled gradient, the product, the sum.
      const double m_size =
          how.beta1 * std::abs(m0[i]) + (1 - how.beta1) * std::abs(g[i] * how.gradient_scale);
      const double kept = after_[1].dtype() == DType::kBF16 ? kRoundoffBF16 : 0;
      m_bound.push_back((4 * kU + kept) * m_size);
      v_bound.push_back((6 * kU + kept) * v[i]);
      // m^: 2 more; sqrt(v^) + eps: (6 + 2) / 2 + 2; the division, lr, and adding the decay.
      const double correction = 1 - std::pow(how.beta1, static_cast<double>(how.step));
      const double v_hat = v[i] / (1 - std::pow(how.beta2, static_cast<double>(how.step)));
      const double descent = m_size / correction / (std::sqrt(v_hat) + how.eps);
      const double decay = how.weight_decay * std::abs(w0[i]);
      w_bound.push_back(how.lr * (15 * descent + 3 * decay) * kU + kU * std::abs(w[i]));
    }
    return {compare("w", after_[0], w, w_bound), compare("m", after_[1], m, m_bound),
            compare("v", after_[2], v, v_bound)};
  }
  std::vector<Tensor> outputs() override { return {after_.begin(), after_.end()}; }

 private:
  static constexpr float kDecay = 0.1F;
  static constexpr ops::AdamW kHow{
      .lr = 0.01F, .beta1 = 0.9F, .beta2 = 0.95F, .eps = 1e-8F, .step = 3, .gradient_scale = 0.7F};
  bool bench_;
  std::vector<OwnedTensor> before_, after_;  // w, m, v, and the gradient
};

void add_swiglu(OpCases& cases, const Size& size, DType h, DType x, bool weighted, bool bench) {
  cases.push_back({.op = "swiglu",
                   .shape = shape_name(size, fmt::format("{}<-{}{}", short_name(h), short_name(x),
                                                         weighted ? " weighted" : "")),
                   .limit = Limit::kMemory,
                   .work = numbers(size) * static_cast<double>(size_of(h) + 2 * size_of(x)),
                   .fresh = numbers(size) * static_cast<double>(size_of(h)),
                   .bench = bench,
                   .make = [=] { return std::make_unique<SwigluRun>(size, h, x, weighted); }});
}

void add_swiglu_backward(OpCases& cases, const Size& size, DType dx, DType dh, DType x,
                         bool weighted, bool bench) {
  const size_t again = weighted ? size_of(x) : 0;  // see SwigluBackwardRun::again
  cases.push_back(
      {.op = "swiglu_backward",
       .shape = shape_name(size, fmt::format("{}<-{},{}{}", short_name(dx), short_name(dh),
                                             short_name(x), weighted ? " weighted" : "")),
       .limit = Limit::kMemory,
       .work = numbers(size) *
               static_cast<double>(2 * size_of(dx) + size_of(dh) + 2 * size_of(x) + again),
       .fresh = numbers(size) * static_cast<double>(2 * size_of(dx) + again),
       .bench = bench,
       .make = [=] { return std::make_unique<SwigluBackwardRun>(size, dx, dh, x, weighted); }});
}

void add_convert(OpCases& cases, const Size& size, DType to, DType from, bool bench) {
  cases.push_back(
      {.op = "convert",
       .shape = shape_name(size, fmt::format("{}<-{}", short_name(to), short_name(from))),
       .limit = Limit::kMemory,
       .work = numbers(size) * static_cast<double>(size_of(to) + size_of(from)),
       .fresh = numbers(size) * static_cast<double>(size_of(to)),
       .bench = bench,
       .make = [=] { return std::make_unique<ConvertRun>(size, to, from); }});
}

void add_adamw(OpCases& cases, int64_t n, DType moments, bool bench) {
  cases.push_back({.op = "adamw",
                   .shape = fmt::format("{} moments {}", n, short_name(moments)),
                   .limit = Limit::kMemory,
                   .work = static_cast<double>(n) *
                           static_cast<double>(3 * sizeof(float) + 4 * size_of(moments)),
                   .bench = bench,
                   .make = [=] { return std::make_unique<AdamWRun>(n, moments, bench); }});
}

void add_sums(OpCases& cases, const Size& size) {
  for (const DType x : kFormats) {
    cases.push_back({.op = "add",
                     .shape = shape_name(size, short_name(x)),
                     .limit = Limit::kMemory,
                     .work = numbers(size) * static_cast<double>(8 + size_of(x)),
                     .make = [=] { return std::make_unique<AddRun>(size, x); }});
  }
  const int64_t n = size.rows * size.cols;
  cases.push_back({.op = "sum_of_squares",
                   .shape = fmt::format("{}", n),
                   .limit = Limit::kMemory,
                   .work = numbers(size) * sizeof(float),
                   .make = [=] { return std::make_unique<SumOfSquaresRun>(n); }});
}

}  // namespace

void add_elementwise_cases(OpCases& cases) {
  std::vector<Size> sizes{{0, 5}, {1, 40000}, {67, 1111}, {300, 67}, {3, 129, 5}};
  for (const int64_t n : kTailSizes) sizes.push_back({2, n, n % 3});
  for (const Size& size : sizes) {
    add_sums(cases, size);
    for (const DType a : kFormats) {
      add_adamw(cases, size.rows * size.cols, a, false);
      for (const DType b : kFormats) {
        const bool weighted = (size.cols + (a == b ? 1 : 0)) % 2 == 0;
        add_swiglu(cases, size, a, b, weighted, false);
        add_convert(cases, size, a, b, false);
        for (const DType dx : kFormats) {
          add_swiglu_backward(cases, size, dx, a, b, weighted, false);
        }
      }
    }
  }
  const Size size{16384, 2048};  // no cache holds it
  for (const DType format : kFormats) {
    add_swiglu(cases, size, format, format, true, true);
    add_swiglu_backward(cases, size, format, format, format, true, true);
  }
  add_convert(cases, size, DType::kBF16, DType::kF32, true);
  for (const DType moments : kFormats) add_adamw(cases, int64_t{1} << 24, moments, true);
}

}  // namespace minke::study
