// The head and its loss, with both gradients. u is the roundoff of FP32; bounds are to first order
// in u, with every constant rounded up.
#include <fmt/format.h>

#include <cmath>

#include "base/rng.h"
#include "ops/cross_entropy.h"
#include "ref/cross_entropy.h"
#include "study/compare.h"

namespace minke::study {
namespace {

using Doubles = std::vector<double>;
constexpr double kU = kRoundoffF32;

struct Size {
  int64_t T, D, V;
  DType format = DType::kF32;  // of the head's operands
  DType dh = DType::kF32;
  bool bench = false;
};

class LinearCrossEntropyRun final : public OpRun {
 public:
  explicit LinearCrossEntropyRun(const Size& size)
      : size_(size),
        h_(PaddedMatrix::random("h", size.format, size.T, size.D, 0)),
        w_(random_tensor("w", size.format, {size.V, size.D}, 0.5)),
        dw_before_(random_tensor("dw", DType::kF32, {size.V, size.D})),
        fprop_(ops::packed_bytes(size.format, size.V, size.D)),
        dgrad_(ops::packed_bytes(size.format, size.D, size.V)),
        dh_(size.dh, {size.T, size.D}),
        dw_(DType::kF32, {size.V, size.D}),
        loss_(DType::kF32, {size.T}),
        argmax_(DType::kI32, {size.T}),
        sum_(DType::kF64, {1}),
        scratch_(size_t{1} << (size.bench ? 30 : 24)) {
    Rng rng(stream_key(1, 0, "targets"));
    for (int64_t t = 0; t < size.T; ++t) {
      targets_.push_back(t % 5 == 3
                             ? ops::kIgnore
                             : static_cast<int32_t>(rng.below(static_cast<uint64_t>(size.V))));
    }
    const ops::PackJob rows{{fprop_.data(), size.format, size.V, size.D}, w_};
    const ops::PackJob columns{{dgrad_.data(), size.format, size.D, size.V}, w_};
    ops::pack_rows(std::span(&rows, 1));
    ops::pack_columns(std::span(&columns, 1));
    what_ = {.h_TD = h_,
             .head = rows.to,
             .targets = targets_,
             .scale = kScale,
             .head_dgrad = columns.to,
             .dh_TD = dh_,
             .dw_VD = dw_,
             .loss_T = loss_.span<float>(),
             .argmax_T = argmax_.span<int32_t>()};
  }
  void run() override {
    if (!size_.bench) std::ranges::copy(dw_before_.span<float>(), dw_.data<float>());
    *sum_.data<double>() = ops::linear_cross_entropy(what_, scratch_);
  }
  std::vector<Check> check() override {
    if (size_.bench) return {};
    find_logits();
    std::vector<Check> checks = check_losses();
    find_gradient_errors();
    checks.push_back(check_dh());
    checks.push_back(check_dw());
    return checks;
  }
  std::vector<Tensor> outputs() override { return {dh_, dw_, loss_, argmax_, sum_}; }

 private:
  static constexpr float kScale = 0.37F;

  // logits_ and, a token, the largest error of its FP32 logits: D products in any order.
  void find_logits() {
    const auto [T, D, V, format, dh, bench] = size_;
    h_numbers_ = to_double(h_);
    w_numbers_ = to_double(w_);
    logits_.assign(static_cast<size_t>(T * V), 0);
    logit_error_.assign(static_cast<size_t>(T), 0);
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t v = 0; v < V; ++v) {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < D; ++i) {
          const double product = h_numbers_[t * D + i] * w_numbers_[v * D + i];
          sum += product;
          size += std::abs(product);
        }
        logits_[t * V + v] = sum;
        logit_error_[t] = std::max(logit_error_[t], static_cast<double>(D + 1) * kU * size);
      }
    }
  }

  // The relative error of the FP32 sum of e^(x - max), given its logits: x - max rounds by at most
  // u * range; e^ by 4 u; blocks of 1024 in at least four running sums.
  double sum_error(int64_t t) const {
    const auto row = std::span(logits_).subspan(t * size_.V, size_.V);
    const auto [low, high] = std::ranges::minmax(row);
    return (high - low + 4 + 1024.0 / 4 + 10) * kU;
  }

  std::vector<Check> check_losses() const {
    const int64_t T = size_.T, V = size_.V;
    Doubles loss(static_cast<size_t>(T)), bound(loss.size());
    double sum = ref::cross_entropy<double>(loss, logits_, targets_, T, V), sum_bound = 0;
    Doubles below;  // how far the logit of argmax is from the largest
    Doubles below_bound;
    for (int64_t t = 0; t < T; ++t) {
      const double error = 2 * logit_error_[t] + sum_error(t);
      bound[t] = targets_[t] == ops::kIgnore ? 0 : error + kU * loss[t];
      sum_bound += bound[t];
      const auto row = std::span(logits_).subspan(t * V, V);
      const int32_t found = argmax_.span<int32_t>()[static_cast<size_t>(t)];
      below.push_back(std::ranges::max(row) - row[static_cast<size_t>(found)]);
      below_bound.push_back(2 * logit_error_[t]);
    }
    return {compare("loss", loss_, loss, bound),
            compare("sum", sum_.span<double>(), std::span(&sum, 1), std::span(&sum_bound, 1)),
            compare("argmax", below, Doubles(below.size()), below_bound)};
  }

  // scale (p - 1[target]): p's relative error is twice the logits', that of the sum and of its own
  // e^; then the subtraction, the scale and the rounding to the operands' format.
  void find_gradient_errors() {
    const int64_t T = size_.T, V = size_.V;
    const auto scale = static_cast<double>(kScale);
    dlogits_.assign(logits_.size(), 0);
    dlogits_error_.assign(logits_.size(), 0);
    ref::cross_entropy_backward<double>(dlogits_, logits_, targets_, T, V, scale);
    for (int64_t t = 0; t < T; ++t) {
      const double error = 2 * logit_error_[t] + 2 * sum_error(t) + 3 * kU;
      for (int64_t v = 0; v < V; ++v) {
        const double d = dlogits_[t * V + v];
        const double p = std::abs(d) / scale + (v == targets_[t] ? 1 : 0);
        dlogits_error_[t * V + v] =
            targets_[t] == ops::kIgnore
                ? 0
                : scale * p * error + (roundoff(size_.format) + 2 * kU) * std::abs(d);
      }
    }
  }

  // dh = dlogits W: V products in any order.
  Check check_dh() const {
    const auto [T, D, V, format, dh_format, bench] = size_;
    Doubles dh(static_cast<size_t>(T * D)), bound(dh.size());
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t i = 0; i < D; ++i) {
        double size = 0;
        for (int64_t v = 0; v < V; ++v) {
          const double w = w_numbers_[v * D + i], d = dlogits_[t * V + v];
          dh[t * D + i] += d * w;
          size += std::abs(d * w) * static_cast<double>(V + 1) * kU +
                  dlogits_error_[t * V + v] * std::abs(w);
        }
        bound[t * D + i] = size + roundoff(dh_format) * (std::abs(dh[t * D + i]) + size);
      }
    }
    return compare("dh", dh_, dh, bound);
  }

  // dw += dlogits^T h: T products, and what was there.
  Check check_dw() const {
    const auto [T, D, V, format, dh_format, bench] = size_;
    Doubles dw = to_double(dw_before_), bound;
    for (int64_t v = 0; v < V; ++v) {
      for (int64_t i = 0; i < D; ++i) {
        double size = std::abs(dw[v * D + i]), error = 0;
        for (int64_t t = 0; t < T; ++t) {
          const double h = h_numbers_[t * D + i], d = dlogits_[t * V + v];
          dw[v * D + i] += d * h;
          size += std::abs(d * h);
          error += dlogits_error_[t * V + v] * std::abs(h);
        }
        bound.push_back(error + static_cast<double>(T + 2) * kU * size);
      }
    }
    return compare("dw", dw_, dw, bound);
  }

  Size size_;
  PaddedMatrix h_;
  OwnedTensor w_, dw_before_;
  Buffer fprop_, dgrad_;
  OwnedTensor dh_, dw_, loss_, argmax_, sum_;
  Arena scratch_;
  std::vector<int32_t> targets_;
  ops::CrossEntropy what_;
  Doubles h_numbers_, w_numbers_, logits_, logit_error_, dlogits_, dlogits_error_;
};

void add_case(OpCases& cases, const Size& size) {
  cases.push_back({.op = "linear_cross_entropy",
                   .shape = fmt::format("{}x{}x{} {} dh {}", size.T, size.V, size.D,
                                        short_name(size.format), short_name(size.dh)),
                   .limit = size.format == DType::kBF16 ? Limit::kComputeBF16 : Limit::kComputeF32,
                   .work = 6 * static_cast<double>(size.T * size.D * size.V),
                   .bench = size.bench,
                   .make = [=] { return std::make_unique<LinearCrossEntropyRun>(size); }});
}

}  // namespace

void add_cross_entropy_cases(OpCases& cases) {
  using enum DType;
  for (const DType format : {kF32, kBF16}) {
    for (const DType dh : {kF32, kBF16}) {
      add_case(cases, {0, 5, 7, format, dh});
      add_case(cases, {1, 1, 1, format, dh});
      add_case(cases, {7, 19, 33, format, dh});
      add_case(cases, {6, 32, 1100, format, dh});
      add_case(cases, {530, 8, 10, format, dh});  // more than one block of tokens
      for (int64_t V = 2; V <= 36; ++V) add_case(cases, {3, 4, V, format, dh});
    }
    add_case(cases, {1024, 512, 4096, format, format, true});
  }
}

}  // namespace minke::study
