// Attention of MLA: expanded and causal, forward and derivative, and absorbed over a latent cache.
#pragma once

#include <algorithm>
#include <cmath>

#include "ref/cross_entropy.h"
#include "ref/ref.h"

namespace minke::ref {

// T = batch * positions tokens. Per token and head, q holds nope, then rope numbers, and kv nope
// numbers of the key, then v of the value; k_rope's rope numbers are shared by the heads.
struct AttentionSizes {
  int64_t batch, positions, heads, nope, rope, v;
  double scale;
  In<int32_t> first = {};  // [T]: the first position that each sees; empty: 0

  int64_t tokens() const { return batch * positions; }
  int64_t first_token(int64_t t) const {
    return t / positions * positions + (first.empty() ? 0 : first[t]);
  }
};

// scale * q . k of one token's query and another's key.
template <typename Number>
Number attention_score(In<Number> q, In<Number> kv, In<Number> k_rope, const AttentionSizes& s,
                       int64_t query, int64_t key, int64_t h) {
  const auto q_head = q.subspan((query * s.heads + h) * (s.nope + s.rope), s.nope + s.rope);
  const auto k_head = kv.subspan((key * s.heads + h) * (s.nope + s.v), s.nope);
  Number sum = 0;
  for (int64_t i = 0; i < s.nope; ++i) sum += q_head[i] * k_head[i];
  for (int64_t i = 0; i < s.rope; ++i) sum += q_head[s.nope + i] * k_rope[key * s.rope + i];
  return sum * s.scale;
}

// The scores of a token against the keys it sees.
template <typename Number>
std::vector<Number> attention_scores(In<Number> q, In<Number> kv, In<Number> k_rope,
                                     const AttentionSizes& s, int64_t query, int64_t h) {
  std::vector<Number> scores;
  for (int64_t key = s.first_token(query); key <= query; ++key) {
    scores.push_back(attention_score<Number>(q, kv, k_rope, s, query, key, h));
  }
  return scores;
}

// o [T, heads * v]; lse [heads, T]: log of the sum of e^score.
template <typename Number>
void attention(Out<Number> o, Out<Number> lse, In<Number> q, In<Number> kv, In<Number> k_rope,
               const AttentionSizes& s) {
  using std::exp;
  std::fill(o.begin(), o.end(), Number(0));
  for (int64_t t = 0; t < s.tokens(); ++t) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const auto scores = attention_scores<Number>(q, kv, k_rope, s, t, h);
      const Number total = log_sum_exp<Number>(scores);
      lse[h * s.tokens() + t] = total;
      for (int64_t j = 0; j < std::ssize(scores); ++j) {
        const Number p = exp(scores[j] - total);
        const int64_t value = ((s.first_token(t) + j) * s.heads + h) * (s.nope + s.v) + s.nope;
        for (int64_t i = 0; i < s.v; ++i) o[(t * s.heads + h) * s.v + i] += p * kv[value + i];
      }
    }
  }
}

template <typename Number>
void attention_backward(Out<Number> dq, Out<Number> dkv, Out<Number> dk_rope, In<Number> d_o,
                        In<Number> q, In<Number> kv, In<Number> k_rope, const AttentionSizes& s) {
  using std::exp;
  const int64_t width = s.nope + s.rope;
  for (int64_t t = 0; t < s.tokens(); ++t) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const auto scores = attention_scores<Number>(q, kv, k_rope, s, t, h);
      const Number total = log_sum_exp<Number>(scores);
      const auto d_o_head = d_o.subspan((t * s.heads + h) * s.v, s.v);
      std::vector<Number> p(scores.size()), dp(scores.size());
      Number mean = 0;  // of dp under p
      for (int64_t j = 0; j < std::ssize(scores); ++j) {
        const int64_t value = ((s.first_token(t) + j) * s.heads + h) * (s.nope + s.v) + s.nope;
        p[j] = exp(scores[j] - total);
        for (int64_t i = 0; i < s.v; ++i) {
          dp[j] += d_o_head[i] * kv[value + i];
          dkv[value + i] += p[j] * d_o_head[i];
        }
        mean += p[j] * dp[j];
      }
      for (int64_t j = 0; j < std::ssize(scores); ++j) {
        const int64_t key = s.first_token(t) + j, q_at = (t * s.heads + h) * width,
                      k_at = (key * s.heads + h) * (s.nope + s.v);
        const Number d = p[j] * (dp[j] - mean) * s.scale;
        for (int64_t i = 0; i < s.nope; ++i) {
          dq[q_at + i] += d * kv[k_at + i];
          dkv[k_at + i] += d * q[q_at + i];
        }
        for (int64_t i = 0; i < s.rope; ++i) {
          dq[q_at + s.nope + i] += d * k_rope[key * s.rope + i];
          dk_rope[key * s.rope + i] += d * q[q_at + s.nope + i];
        }
      }
    }
  }
}

// One row of absorbed attention. o [heads, rank]; q [heads, rank + rope]; cache [length, rank +
// rope]: the key is all of a token's numbers, the value its first `rank`.
template <typename Number>
void latent_attention(Out<Number> o, In<Number> q, In<Number> cache, int64_t length, int64_t heads,
                      int64_t rank, int64_t rope, double scale) {
  using std::exp;
  const int64_t width = rank + rope;
  std::fill(o.begin(), o.end(), Number(0));
  for (int64_t h = 0; h < heads; ++h) {
    std::vector<Number> scores(length);
    for (int64_t j = 0; j < length; ++j) {
      for (int64_t i = 0; i < width; ++i) scores[j] += q[h * width + i] * cache[j * width + i];
      scores[j] *= scale;
    }
    const Number total = log_sum_exp<Number>(scores);
    for (int64_t j = 0; j < length; ++j) {
      const Number p = exp(scores[j] - total);
      for (int64_t i = 0; i < rank; ++i) o[h * rank + i] += p * cache[j * width + i];
    }
  }
}

}  // namespace minke::ref
