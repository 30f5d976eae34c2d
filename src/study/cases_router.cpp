// The router: choice, weights, balance, backward. u is the roundoff of FP32; bounds are to first
// order in u, with every constant rounded up.
#include <fmt/format.h>

#include <cmath>

#include "ops/router.h"
#include "ref/router.h"
#include "study/compare.h"

namespace minke::study {
namespace {

using Doubles = std::vector<double>;
constexpr double kU = kRoundoffF32;

struct Size {
  int64_t B, S;
  ops::Routing how;
  int64_t tokens() const { return B * S; }
};

ref::Routing to_ref(const ops::Routing& how) {
  return {.experts = how.experts,
          .chosen = how.chosen,
          .groups = how.groups,
          .chosen_groups = how.chosen_groups,
          .scoring = how.scoring == ops::Scoring::kSigmoid ? ref::Scoring::kSigmoid
                                                           : ref::Scoring::kSoftmax,
          .method = how.method == ops::TopkMethod::kGreedy ? ref::TopkMethod::kGreedy
                    : how.method == ops::TopkMethod::kGroupLimitedGreedy
                        ? ref::TopkMethod::kGroupLimitedGreedy
                        : ref::TopkMethod::kNoauxTc,
          .normalize = how.normalize,
          .scale = static_cast<double>(how.scale)};
}

std::string shape_name(const Size& size) {
  const auto& how = size.how;
  constexpr std::string_view kMethods[] = {"greedy", "group_limited_greedy", "noaux_tc"};
  return fmt::format("{}x{} top-{} of {} groups {}/{} {} {}{}", size.B, size.S, how.chosen,
                     how.experts, how.chosen_groups, how.groups,
                     kMethods[static_cast<int>(how.method)],
                     how.scoring == ops::Scoring::kSigmoid ? "sigmoid" : "softmax",
                     how.normalize ? " normalized" : "");
}

// Sums over E numbers run in four or more running sums.
double chain(int64_t E) { return static_cast<double>(E) / 4 + 9; }

class RouteRun final : public OpRun {
 public:
  explicit RouteRun(const Size& size)
      : size_(size),
        how_(to_ref(size.how)),
        logits_(random_tensor("logits", DType::kF32, {size.tokens(), size.how.experts}, 2)),
        bias_(random_tensor("bias", DType::kF32, {size.how.experts}, 0.2)),
        scores_(DType::kF32, {size.tokens(), size.how.experts}),
        weights_(DType::kF32, {size.tokens(), size.how.chosen}),
        experts_(DType::kI32, {size.tokens(), size.how.chosen}),
        f_(DType::kF32, {size.B, size.how.experts}),
        balance_(DType::kF64, {1}) {}
  void run() override {
    ops::route(experts_, weights_, scores_, logits_, bias_, size_.how, false);
    *balance_.data<double>() = ops::sequence_balance(f_, scores_, size_.B, size_.how);
  }
  std::vector<Check> check() override {
    const int64_t T = size_.tokens();
    const Doubles got_scores = to_double(scores_);
    return {check_scores(), check_choice(got_scores, T), check_weights(got_scores, T),
            check_fractions(got_scores), check_balance(got_scores)};
  }
  std::vector<Tensor> outputs() override { return {experts_, weights_, scores_, f_, balance_}; }

 private:
  Check check_scores() const {
    const int64_t T = size_.tokens(), E = how_.experts;
    const Doubles logits = to_double(logits_);
    Doubles scores(logits.size()), bound;
    ref::router_scores<double>(scores, logits, T, how_);
    for (int64_t t = 0; t < T; ++t) {
      const auto row = std::span(logits).subspan(t * E, E);
      const auto [low, high] = std::ranges::minmax(row);
      // Softmax: x - max rounds by u |x - max|, which e^ turns into a relative error, of the number
      // and of the sum; 4 u for e^ in both; the sum; the division. Sigmoid: see cases_elementwise.
      const double error =
          how_.scoring == ref::Scoring::kSigmoid ? 6 : 2 * (high - low) + chain(E) + 9;
      for (int64_t e = 0; e < E; ++e) bound.push_back(error * kU * scores[t * E + e]);
    }
    return compare("scores", scores_, scores, bound);
  }
  // Given the op's own scores, and the FP32 sum of score and bias, the choice is exact.
  Check check_choice(const Doubles& scores, int64_t T) const {
    Doubles choice = scores;
    if (how_.method == ref::TopkMethod::kNoauxTc) {
      const auto bias = bias_.span<float>();
      for (size_t i = 0; i < choice.size(); ++i) {
        choice[i] = static_cast<double>(static_cast<float>(scores[i]) + bias[i % bias.size()]);
      }
    }
    std::vector<int32_t> want(static_cast<size_t>(T * how_.chosen));
    ref::choose_experts(want, choice, {}, T, how_);
    const auto got = experts_.span<int32_t>();
    return compare_exactly("experts", Doubles(got.begin(), got.end()),
                           Doubles(want.begin(), want.end()));
  }
  Check check_weights(const Doubles& scores, int64_t T) const {
    Doubles weights(static_cast<size_t>(T * how_.chosen)), bound;
    ref::router_weights<double>(weights, scores, experts_.span<int32_t>(), T, how_);
    // K additions of positive numbers, a division, the scale.
    for (const double w : weights) {
      bound.push_back(static_cast<double>(how_.chosen + 3) * kU * w);
    }
    return compare("weights", weights_, weights, bound);
  }
  Check check_fractions(const Doubles& scores) const {
    Doubles f(static_cast<size_t>(size_.B * how_.experts)), bound;
    ref::balance_fractions(f, scores, size_.B, size_.S, how_);
    for (const double v : f) bound.push_back(2 * kU * v);  // rounded to FP32 once
    return compare("f", f_, f, bound);
  }
  Check check_balance(const Doubles& scores) const {
    const double want = ref::balance_loss<double>(scores, to_double(f_), size_.B, size_.S, how_);
    // Float64 throughout, from the same FP32 scores and f; the floor is rounded to FP32, which no
    // sum of scores here can show.
    const double bound = static_cast<double>(4 * (size_.tokens() + how_.experts)) * 0x1p-53 * want;
    return compare("balance", balance_.span<double>(), std::span(&want, 1), std::span(&bound, 1));
  }

  Size size_;
  ref::Routing how_;
  OwnedTensor logits_, bias_, scores_, weights_, experts_, f_, balance_;
};

class RouterBackwardRun final : public OpRun {
 public:
  explicit RouterBackwardRun(const Size& size)
      : size_(size),
        how_(to_ref(size.how)),
        scores_(DType::kF32, {size.tokens(), size.how.experts}),
        dweights_(random_tensor("dweights", DType::kF32, {size.tokens(), size.how.chosen})),
        experts_(DType::kI32, {size.tokens(), size.how.chosen}),
        f_(DType::kF32, {size.B, size.how.experts}),
        dlogits_(DType::kF32, {size.tokens(), size.how.experts}) {
    const OwnedTensor logits =
        random_tensor("logits", DType::kF32, {size.tokens(), size.how.experts}, 2);
    const OwnedTensor weights(DType::kF32, {size.tokens(), size.how.chosen});
    const OwnedTensor bias(DType::kF32, {size.how.experts});
    ops::route(experts_, weights, scores_, logits, bias, size.how, false);
    ops::sequence_balance(f_, scores_, size.B, size.how);
  }
  void run() override {
    ops::router_backward(dlogits_, dweights_, experts_, scores_, f_, size_.B, kBalance, size_.how);
  }
  std::vector<Check> check() override {
    const int64_t T = size_.tokens(), E = how_.experts;
    const Doubles scores = to_double(scores_), dweights = to_double(dweights_), f = to_double(f_);
    const auto experts = experts_.span<int32_t>();
    Doubles dscores(scores.size()), dlogits(scores.size());
    ref::router_weights_backward<double>(dscores, dweights, scores, experts, T, how_);
    ref::balance_loss_backward<double>(dscores, scores, f, size_.B, size_.S,
                                       static_cast<double>(kBalance), how_);
    ref::router_scores_backward<double>(dlogits, dscores, scores, T, how_);

    const Doubles size = magnitudes(scores, dweights, f);
    // Relative to its magnitude, dscore is off by its sums over K (three of them, and a handful of
    // other roundings) and over E (three).
    const double error = 3 * static_cast<double>(how_.chosen) + 3 * chain(E) + 20;
    Doubles bound;
    for (int64_t t = 0; t < T; ++t) {
      double sum = 0;
      for (int64_t e = 0; e < E; ++e) sum += scores[t * E + e] * size[t * E + e];
      for (int64_t e = 0; e < E; ++e) {
        const double s = scores[t * E + e], m = size[t * E + e];
        bound.push_back(how_.scoring == ref::Scoring::kSigmoid
                            ? (error + 4) * kU * s * (1 - s) * m
                            : (error + chain(E) + 5) * kU * s * (m + sum));
      }
    }
    return {compare("dlogits", dlogits_, dlogits, bound)};
  }
  std::vector<Tensor> outputs() override { return {dlogits_}; }

 private:
  static constexpr float kBalance = 0.5F;

  // The sum of the absolute values of what dscore is made of.
  Doubles magnitudes(const Doubles& scores, const Doubles& dweights, const Doubles& f) const {
    const int64_t T = size_.tokens(), E = how_.experts, K = how_.chosen;
    const auto experts = experts_.span<int32_t>();
    Doubles size(scores.size());
    for (int64_t t = 0; t < T; ++t) {
      double total = 0, dot = 0, all = 0, balance = 0;
      for (int64_t k = 0; k < K; ++k) {
        const double s = scores[t * E + experts[t * K + k]];
        total += s;
        dot += std::abs(dweights[t * K + k]) * s;
      }
      for (int64_t k = 0; k < K; ++k) {
        const double d = std::abs(dweights[t * K + k]);
        size[t * E + experts[t * K + k]] +=
            how_.scale * (how_.normalize ? (d + dot / total) / total : d);
      }
      const double* fraction = f.data() + t / size_.S * E;
      for (int64_t e = 0; e < E; ++e) {
        all += scores[t * E + e];
        balance += fraction[e] * scores[t * E + e];
      }
      for (int64_t e = 0; e < E; ++e) {
        size[t * E + e] += static_cast<double>(kBalance) / static_cast<double>(size_.S) *
                           (fraction[e] + balance / all) / all;
      }
    }
    return size;
  }

  Size size_;
  ref::Routing how_;
  OwnedTensor scores_, dweights_, experts_, f_, dlogits_;
};

void add_all(OpCases& cases, const Size& size, bool bench) {
  const auto numbers = static_cast<double>(size.tokens() * size.how.experts);
  cases.push_back({.op = "route",
                   .shape = shape_name(size),
                   .limit = Limit::kMemory,
                   .work = numbers * 8,
                   .bench = bench,
                   .make = [=] { return std::make_unique<RouteRun>(size); }});
  cases.push_back({.op = "router_backward",
                   .shape = shape_name(size),
                   .limit = Limit::kMemory,
                   .work = numbers * 8,
                   .bench = bench,
                   .make = [=] { return std::make_unique<RouterBackwardRun>(size); }});
}

}  // namespace

void add_router_cases(OpCases& cases) {
  using enum ops::TopkMethod;
  using enum ops::Scoring;
  for (const auto scoring : {kSigmoid, kSoftmax}) {
    for (const auto method : {kGreedy, kGroupLimitedGreedy, kNoauxTc}) {
      for (const bool normalize : {false, true}) {
        const ops::Routing how{.experts = 12,
                               .chosen = 3,
                               .groups = 4,
                               .chosen_groups = 2,
                               .scoring = scoring,
                               .method = method,
                               .normalize = normalize,
                               .scale = 2.5F};
        add_all(cases, {2, 7, how}, false);
        ops::Routing large = how;
        large.experts = 72;
        large.chosen = 6;
        large.groups = 8;
        large.chosen_groups = 3;
        add_all(cases, {3, 150, large}, false);
      }
    }
  }
  for (int64_t E = 1; E <= 40; ++E) {
    for (const auto scoring : {kSigmoid, kSoftmax}) {
      add_all(cases, {1, 3, {.experts = E, .chosen = (E + 1) / 2, .scoring = scoring}}, false);
    }
  }
  add_all(cases, {0, 0, {.experts = 4, .chosen = 2}}, false);
  add_all(cases,
          {1, 2048, {.experts = 256, .chosen = 8, .groups = 8, .chosen_groups = 4, .scale = 2.5F}},
          true);
}

}  // namespace minke::study
