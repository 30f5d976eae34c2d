// The router of DeepSeekMoE: scores, choice, weights, balance. V3 report, equations 12-20.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>

#include "ref/activation.h"
#include "ref/cross_entropy.h"

namespace minke::ref {

enum class Scoring { kSigmoid, kSoftmax };
enum class TopkMethod { kGreedy, kGroupLimitedGreedy, kNoauxTc };

struct Routing {
  int64_t experts = 0, chosen = 0;        // E, K
  int64_t groups = 1, chosen_groups = 1;  // n_group, topk_group
  Scoring scoring = Scoring::kSigmoid;
  TopkMethod method = TopkMethod::kNoauxTc;
  bool normalize = true;  // norm_topk_prob
  double scale = 1;       // routed_scaling_factor
};

inline constexpr double kScoreFloor = 1e-20;  // added to sums of scores that are divided by

// scores, logits [T, E].
template <typename Number>
void router_scores(Out<Number> scores, In<Number> logits, int64_t T, const Routing& how) {
  const int64_t E = how.experts;
  for (int64_t t = 0; t < T; ++t) {
    const auto row = logits.subspan(t * E, E);
    for (int64_t e = 0; e < E; ++e) {
      using std::exp;
      scores[t * E + e] = how.scoring == Scoring::kSigmoid ? sigmoid(row[e])
                                                           : exp(row[e] - log_sum_exp<Number>(row));
    }
  }
}

template <typename Number>
void router_scores_backward(Out<Number> dlogits, In<Number> dscores, In<Number> scores, int64_t T,
                            const Routing& how) {
  const int64_t E = how.experts;
  for (int64_t t = 0; t < T; ++t) {
    const auto s = scores.subspan(t * E, E), d = dscores.subspan(t * E, E);
    Number dot = 0;
    for (int64_t e = 0; e < E; ++e) dot += d[e] * s[e];
    for (int64_t e = 0; e < E; ++e) {
      dlogits[t * E + e] +=
          how.scoring == Scoring::kSigmoid ? d[e] * s[e] * (1.0 - s[e]) : s[e] * (d[e] - dot);
    }
  }
}

// The indices of the `count` largest, ascending; of equal ones the lower index.
inline std::vector<int32_t> largest(In<double> values, int64_t count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  order.resize(count);
  std::ranges::sort(order);
  return order;
}

// What the choice of one token compares: scores (plus bias for noaux_tc), -inf in the groups that
// were not kept. bias [E] may be empty: 0.
inline std::vector<double> choice_scores(In<double> scores, In<double> bias, const Routing& how) {
  std::vector<double> c(scores.begin(), scores.end());
  if (how.method == TopkMethod::kNoauxTc && !bias.empty()) {
    for (int64_t e = 0; e < how.experts; ++e) c[e] += bias[e];
  }
  if (how.method == TopkMethod::kGreedy || how.groups == 1) return c;
  const int64_t size = how.experts / how.groups;
  std::vector<double> group_scores;
  for (int64_t g = 0; g < how.groups; ++g) {
    std::vector<double> group(c.begin() + g * size, c.begin() + (g + 1) * size);
    std::ranges::sort(group, std::greater<>());
    const bool two = how.method == TopkMethod::kNoauxTc && size > 1;
    group_scores.push_back(two ? group[0] + group[1] : group[0]);
  }
  const std::vector<int32_t> kept = largest(group_scores, how.chosen_groups);
  for (int64_t e = 0; e < how.experts; ++e) {
    if (!std::ranges::binary_search(kept, static_cast<int32_t>(e / size))) {
      c[e] = -std::numeric_limits<double>::infinity();
    }
  }
  return c;
}

// experts [T, K], ascending within a token.
inline void choose_experts(Out<int32_t> experts, In<double> scores, In<double> bias, int64_t T,
                           const Routing& how) {
  for (int64_t t = 0; t < T; ++t) {
    const auto c = choice_scores(scores.subspan(t * how.experts, how.experts), bias, how);
    std::ranges::copy(largest(c, how.chosen), experts.begin() + t * how.chosen);
  }
}

// weights [T, K], from the unbiased scores.
template <typename Number>
void router_weights(Out<Number> weights, In<Number> scores, In<int32_t> experts, int64_t T,
                    const Routing& how) {
  const int64_t E = how.experts, K = how.chosen;
  for (int64_t t = 0; t < T; ++t) {
    Number total = kScoreFloor;
    for (int64_t k = 0; k < K; ++k) total += scores[t * E + experts[t * K + k]];
    for (int64_t k = 0; k < K; ++k) {
      const Number s = scores[t * E + experts[t * K + k]];
      weights[t * K + k] = (how.normalize ? s / total : s) * how.scale;
    }
  }
}

template <typename Number>
void router_weights_backward(Out<Number> dscores, In<Number> dweights, In<Number> scores,
                             In<int32_t> experts, int64_t T, const Routing& how) {
  const int64_t E = how.experts, K = how.chosen;
  for (int64_t t = 0; t < T; ++t) {
    Number total = kScoreFloor;
    for (int64_t k = 0; k < K; ++k) total += scores[t * E + experts[t * K + k]];
    for (int64_t k = 0; k < K; ++k) {
      const int64_t at = t * E + experts[t * K + k];
      if (!how.normalize) {
        dscores[at] += how.scale * dweights[t * K + k];
        continue;
      }
      // d(s_j / total) / ds_k = [j = k] / total - s_j / total^2
      for (int64_t j = 0; j < K; ++j) {
        const Number s = scores[t * E + experts[t * K + j]];
        dscores[at] += how.scale * dweights[t * K + j] *
                       ((j == k ? 1.0 / total : Number(0)) - s / (total * total));
      }
    }
  }
}

inline void count_experts(Out<int64_t> counts, In<int32_t> experts) {
  for (const int32_t e : experts) ++counts[e];
}

// b_i += gamma * sign(mean(count) - count_i); counts so small that E * count is exact.
inline void update_bias(Out<double> bias, In<int64_t> counts, double gamma) {
  const int64_t sum = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (size_t e = 0; e < bias.size(); ++e) {
    const int64_t above = counts[e] * std::ssize(counts) - sum;
    bias[e] -= gamma * static_cast<double>((above > 0) - (above < 0));
  }
}

// f [B, E]: E / (K S) times how often an expert is among the K largest unbiased, ungrouped scores
// of its sequence. scores [B S, E].
inline void balance_fractions(Out<double> f, In<double> scores, int64_t B, int64_t S,
                              const Routing& how) {
  const int64_t E = how.experts;
  std::ranges::fill(f, 0.0);
  for (int64_t t = 0; t < B * S; ++t) {
    for (const int32_t e : largest(scores.subspan(t * E, E), how.chosen)) {
      f[t / S * E + e] += static_cast<double>(E) / static_cast<double>(how.chosen * S);
    }
  }
}

// The sum over sequences of sum_i f_i P_i, with P_i = mean_t s_ti / sum_j s_tj; f is a constant.
template <typename Number>
Number balance_loss(In<Number> scores, In<double> f, int64_t B, int64_t S, const Routing& how) {
  const int64_t E = how.experts;
  Number loss = 0;
  for (int64_t t = 0; t < B * S; ++t) {
    Number total = kScoreFloor;
    for (int64_t e = 0; e < E; ++e) total += scores[t * E + e];
    for (int64_t e = 0; e < E; ++e) {
      loss += f[t / S * E + e] * scores[t * E + e] / total / static_cast<double>(S);
    }
  }
  return loss;
}

// Gradient of scale * balance_loss().
template <typename Number>
void balance_loss_backward(Out<Number> dscores, In<Number> scores, In<double> f, int64_t B,
                           int64_t S, double scale, const Routing& how) {
  const int64_t E = how.experts;
  for (int64_t t = 0; t < B * S; ++t) {
    const double* fraction = f.data() + t / S * E;
    Number total = kScoreFloor, dot = 0;
    for (int64_t e = 0; e < E; ++e) {
      total += scores[t * E + e];
      dot += fraction[e] * scores[t * E + e];
    }
    for (int64_t e = 0; e < E; ++e) {
      dscores[t * E + e] +=
          scale / static_cast<double>(S) * (fraction[e] / total - dot / (total * total));
    }
  }
}

}  // namespace minke::ref
