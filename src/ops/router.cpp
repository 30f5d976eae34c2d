#include "ops/router.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/dispatch.h"
#include "ops/kernels/router.h"
#include "ops/not_finite.h"

namespace minke::ops {
namespace {

// Added to the sums of scores that are divided by.
constexpr float kFloor = 1e-20F;

auto router_table() { return MINKE_KERNELS(kernels::RouterKernels, router_kernels); }

bool is_routes(const Tensor& t, DType dtype, int64_t tokens, const Routing& how) {
  return t.rank() == 2 && t.dtype() == dtype && t.dim(0) == tokens && t.dim(1) == how.chosen;
}

bool is_scores(const Tensor& t, const Routing& how) {
  return t.rank() == 2 && t.dtype() == DType::kF32 && t.dim(1) == how.experts;
}

// The best `capacity` of the values that are offered in ascending order of index. Equal values: the
// earlier stays ahead. Room that is left is filled by any value, -inf too.
class Best {
 public:
  void start(int64_t capacity) {
    values_.resize(static_cast<size_t>(capacity));
    indices_.resize(static_cast<size_t>(capacity));
    size_ = 0;
  }
  // The indices [begin, begin + count) of `values`.
  void offer(const float* values, int64_t begin, int64_t count) {
    for (int64_t i = begin; i < begin + count; ++i) {
      const bool full = size_ == values_.size();
      // Most values end here.
      if (full && !(values[i] > values_[size_ - 1])) continue;
      insert(values[i], i, full ? size_ - 1 : size_++);
    }
  }
  // Ascending.
  std::span<const int64_t> indices() {
    const std::span found(indices_.data(), size_);
    std::ranges::sort(found);
    return found;
  }

 private:
  // The place `at` is free, or its value falls out.
  void insert(float value, int64_t index, size_t at) {
    for (; at > 0 && value > values_[at - 1]; --at) {
      values_[at] = values_[at - 1];
      indices_[at] = indices_[at - 1];
    }
    values_[at] = value;
    indices_[at] = index;
  }

  std::vector<float> values_;  // descending
  std::vector<int64_t> indices_;
  size_t size_ = 0;
};

// Chooses the experts of one token after the other; holds what every token needs again.
class Chooser {
 public:
  Chooser(const Routing& how, const float* bias)
      : how_(how),
        bias_(how.method == TopkMethod::kNoauxTc ? bias : nullptr),
        grouped_(how.method != TopkMethod::kGreedy && how.groups > 1),
        choice_(static_cast<size_t>(how.experts)),
        group_scores_(static_cast<size_t>(how.groups)) {}

  std::span<const int64_t> choose(const float* scores) {
    for (size_t e = 0; e < choice_.size(); ++e) {
      choice_[e] = bias_ == nullptr ? scores[e] : scores[e] + bias_[e];
    }
    experts_.start(how_.chosen);
    if (!grouped_) {
      experts_.offer(choice_.data(), 0, how_.experts);
    } else {
      // Experts of the other groups are not offered at all, which is a mask of -inf.
      const int64_t size = how_.experts / how_.groups;
      for (int64_t g = 0; g < how_.groups; ++g) {
        group_scores_[static_cast<size_t>(g)] = group_score(g * size, size);
      }
      groups_.start(how_.chosen_groups);
      groups_.offer(group_scores_.data(), 0, how_.groups);
      for (const int64_t g : groups_.indices()) experts_.offer(choice_.data(), g * size, size);
    }
    return experts_.indices();
  }

 private:
  float group_score(int64_t begin, int64_t size) const {
    float first = -std::numeric_limits<float>::infinity(), second = first;
    for (int64_t e = begin; e < begin + size; ++e) {
      const float c = choice_[static_cast<size_t>(e)];
      second = std::max(second, std::min(first, c));
      first = std::max(first, c);
    }
    return how_.method == TopkMethod::kGroupLimitedGreedy || size == 1 ? first : first + second;
  }

  const Routing& how_;
  const float* bias_;
  const bool grouped_;
  std::vector<float> choice_, group_scores_;
  Best experts_, groups_;
};

void check(const Routing& how) {
  MINKE_CHECK(how.experts >= 1 && how.chosen >= 1 && how.chosen <= how.experts);
  MINKE_CHECK(how.groups >= 1 && how.experts % how.groups == 0);
  MINKE_CHECK(how.chosen_groups >= 1 && how.chosen_groups <= how.groups);
  MINKE_CHECK(how.method == TopkMethod::kGreedy ||
                  how.chosen <= how.experts / how.groups * how.chosen_groups,
              "{} experts of {} groups of {}", how.chosen, how.chosen_groups,
              how.experts / how.groups);
}

void score(float* scores, const float* logits, int64_t token, const Routing& how) {
  for (int64_t e = 0; e < how.experts; ++e) {
    if (std::isnan(logits[e])) {
      throw NotFinite(fmt::format(
          "router: token {} of the batch has a score that is not a number for expert {}: the "
          "activations or the weights before it have overflowed",
          token, e));
    }
  }
  if (how.scoring == Scoring::kSigmoid) {
    router_table()->sigmoid(scores, logits, how.experts);
  } else {
    router_table()->softmax(scores, logits, how.experts);
  }
}

void weigh(float* weights, const int32_t* experts, const float* scores, const Routing& how) {
  float total = kFloor;
  for (int64_t k = 0; k < how.chosen; ++k) total += scores[experts[k]];
  for (int64_t k = 0; k < how.chosen; ++k) {
    const float s = scores[experts[k]];
    weights[k] = (how.normalize ? s / total : s) * how.scale;
  }
}

// The gradient of weigh(), added to d. Of normalised weights it is scale / total times dweights[k]
// minus their mean (weighted by scores), which is summed as a mean of differences: where they are
// alike, and above all where there is only one, rounding would be all that is left of a difference
// of sums.
void weigh_backward(float* d, const float* dweights, const int32_t* experts, const float* scores,
                    const Routing& how) {
  float total = kFloor;
  for (int64_t k = 0; k < how.chosen; ++k) total += scores[experts[k]];
  for (int64_t k = 0; k < how.chosen; ++k) {
    if (!how.normalize) {
      d[experts[k]] += how.scale * dweights[k];
      continue;
    }
    float above = kFloor * dweights[k];
    for (int64_t j = 0; j < how.chosen; ++j) {
      above += (dweights[k] - dweights[j]) * scores[experts[j]];
    }
    d[experts[k]] += how.scale / total * (above / total);
  }
}

}  // namespace

void route(const Tensor& experts_TK, const Tensor& weights_TK, const Tensor& scores_TE,
           const Tensor& logits_TE, const Tensor& bias_E, const Routing& how, bool forced) {
  const Profiled profiled("route");
  check(how);
  MINKE_CHECK(is_scores(logits_TE, how) && is_scores(scores_TE, how));
  const int64_t T = logits_TE.dim(0), E = how.experts, K = how.chosen;
  MINKE_CHECK(scores_TE.dim(0) == T && is_routes(experts_TK, DType::kI32, T, how) &&
              is_routes(weights_TK, DType::kF32, T, how));
  const bool biased = how.method == TopkMethod::kNoauxTc;
  MINKE_CHECK(!biased || forced || is_vector(bias_E, E));
  const float* bias = biased && !forced ? bias_E.data<float>() : nullptr;
  const float* logits = logits_TE.data<float>();
  float* scores = scores_TE.data<float>();
  int32_t* experts = experts_TK.data<int32_t>();
  float* weights = weights_TK.data<float>();
  parallel_for(T, rows_per_chunk(4 * E), [&](int64_t begin, int64_t end) {
    Chooser chooser(how, bias);
    for (int64_t t = begin; t < end; ++t) {
      score(scores + t * E, logits + t * E, t, how);
      int32_t* chosen = experts + t * K;
      if (forced) {
        for (int64_t k = 0; k < K; ++k) MINKE_CHECK(chosen[k] >= 0 && chosen[k] < E);
      } else {
        std::ranges::copy(chooser.choose(scores + t * E), chosen);
      }
      weigh(weights + t * K, chosen, scores + t * E, how);
    }
  });
}

void count_experts(const Tensor& counts_E, const Tensor& experts_TK) {
  const Profiled profiled("count_experts");
  const auto counts = counts_E.span<int64_t>();
  for (const int32_t e : experts_TK.span<int32_t>()) {
    MINKE_CHECK(e >= 0 && e < std::ssize(counts));
    ++counts[static_cast<size_t>(e)];
  }
}

void update_bias(const Tensor& bias_E, const Tensor& counts_E, float gamma) {
  const auto counts = counts_E.span<int64_t>();
  const auto bias = bias_E.span<float>();
  MINKE_CHECK(bias.size() == counts.size());
  // 128 bits: E * count must not overflow whatever the counts are.
  __extension__ using Wide = __int128;
  Wide sum = 0;
  for (const int64_t c : counts) sum += c;
  for (size_t e = 0; e < bias.size(); ++e) {
    const Wide scaled = static_cast<Wide>(counts[e]) * static_cast<Wide>(counts.size());
    if (scaled < sum) bias[e] += gamma;
    if (scaled > sum) bias[e] -= gamma;
  }
}

double sequence_balance(const Tensor& f_BE, const Tensor& scores_TE, int64_t sequences,
                        const Routing& how) {
  const Profiled profiled("sequence_balance");
  check(how);
  MINKE_CHECK(is_scores(scores_TE, how) && is_scores(f_BE, how) && f_BE.dim(0) == sequences);
  const int64_t T = scores_TE.dim(0), E = how.experts;
  MINKE_CHECK(sequences > 0 ? T % sequences == 0 : T == 0);
  if (T == 0) {
    std::ranges::fill(f_BE.span<float>(), 0.0F);
    return 0;
  }
  const int64_t S = T / sequences;
  // Partial sums over fixed blocks of a sequence, added in order.
  constexpr int64_t kBlock = 128;
  const int64_t blocks = (S + kBlock - 1) / kBlock;
  std::vector<int64_t> counts(static_cast<size_t>(sequences * blocks * E));
  std::vector<double> shares(counts.size());
  const float* scores = scores_TE.data<float>();
  parallel_for(sequences * blocks, 1, [&](int64_t begin, int64_t end) {
    Best best;
    for (int64_t block = begin; block < end; ++block) {
      int64_t* count = counts.data() + block * E;
      double* share = shares.data() + block * E;
      const int64_t first = block % blocks * kBlock, last = std::min(S, first + kBlock);
      for (int64_t t = first; t < last; ++t) {
        const float* s = scores + (block / blocks * S + t) * E;
        best.start(how.chosen);
        double total = static_cast<double>(kFloor);
        best.offer(s, 0, E);
        for (const int64_t e : best.indices()) ++count[e];
        for (int64_t e = 0; e < E; ++e) total += static_cast<double>(s[e]);
        const double inverse = 1 / total;
        for (int64_t e = 0; e < E; ++e) share[e] += static_cast<double>(s[e]) * inverse;
      }
    }
  });
  double loss = 0;
  for (int64_t b = 0; b < sequences; ++b) {
    float* f = f_BE.data<float>() + b * E;
    for (int64_t e = 0; e < E; ++e) {
      int64_t count = 0;
      double share = 0;
      for (int64_t block = b * blocks; block < (b + 1) * blocks; ++block) {
        count += counts[static_cast<size_t>(block * E + e)];
        share += shares[static_cast<size_t>(block * E + e)];
      }
      f[e] =
          static_cast<float>(static_cast<double>(E * count) / static_cast<double>(how.chosen * S));
      loss += static_cast<double>(f[e]) * share / static_cast<double>(S);
    }
  }
  return loss;
}

void router_backward(const Tensor& dlogits_TE, const Tensor& dweights_TK, const Tensor& experts_TK,
                     const Tensor& scores_TE, const Tensor& f_BE, int64_t sequences,
                     float balance_scale, const Routing& how) {
  const Profiled profiled("router_backward");
  check(how);
  MINKE_CHECK(is_scores(scores_TE, how) && dlogits_TE.dtype() == DType::kF32 &&
              dlogits_TE.shape() == scores_TE.shape());
  const int64_t T = scores_TE.dim(0), E = how.experts, K = how.chosen;
  MINKE_CHECK(is_routes(experts_TK, DType::kI32, T, how) &&
              is_routes(dweights_TK, DType::kF32, T, how));
  const bool balanced = balance_scale != 0 && T > 0;
  MINKE_CHECK(!balanced || (sequences > 0 && T % sequences == 0 && is_scores(f_BE, how) &&
                            f_BE.dim(0) == sequences));
  const int64_t S = balanced ? T / sequences : 1;
  const float* f = balanced ? f_BE.data<float>() : nullptr;
  const float* scores = scores_TE.data<float>();
  const float* dweights = dweights_TK.data<float>();
  const int32_t* experts = experts_TK.data<int32_t>();
  float* dlogits = dlogits_TE.data<float>();
  const auto kernels = router_table();
  parallel_for(T, rows_per_chunk(2 * E), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* d = dlogits + t * E;
      const float* s = scores + t * E;
      if (balanced) {
        kernels->balance_backward(d, f + t / S * E, s, balance_scale / static_cast<float>(S),
                                  kFloor, E);
      } else {
        std::fill_n(d, E, 0.0F);
      }
      weigh_backward(d, dweights + t * K, experts + t * K, s, how);
      if (how.scoring == Scoring::kSigmoid) {
        kernels->sigmoid_backward(d, s, E);
      } else {
        kernels->softmax_backward(d, s, E);
      }
    }
  });
}

}  // namespace minke::ops
