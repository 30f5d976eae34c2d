// Cross-entropy of logits, natural logarithm, over the targets that count.
#pragma once

#include <algorithm>
#include <cmath>

#include "ref/ref.h"

namespace minke::ref {

inline constexpr int32_t kIgnore = -100;  // a target that does not count

template <typename Number>
Number log_sum_exp(In<Number> x) {
  double top = real_part(x[0]);
  for (const Number& v : x) top = std::max(top, real_part(v));
  using std::exp, std::log;
  Number sum = 0;
  for (const Number& v : x) sum += exp(v - top);
  return top + log(sum);
}

// loss [T] = -log softmax(logits)[target], 0 where ignored; returns their sum. logits [T, V].
template <typename Number>
Number cross_entropy(Out<Number> loss, In<Number> logits, In<int32_t> targets, int64_t T,
                     int64_t V) {
  Number sum = 0;
  for (int64_t t = 0; t < T; ++t) {
    const auto row = logits.subspan(t * V, V);
    loss[t] = targets[t] == kIgnore ? Number(0) : log_sum_exp<Number>(row) - row[targets[t]];
    sum += loss[t];
  }
  return sum;
}

// Gradient of scale * (the sum of the losses).
template <typename Number>
void cross_entropy_backward(Out<Number> dlogits, In<Number> logits, In<int32_t> targets, int64_t T,
                            int64_t V, double scale) {
  using std::exp;
  for (int64_t t = 0; t < T; ++t) {
    if (targets[t] == kIgnore) continue;
    const auto row = logits.subspan(t * V, V);
    const Number total = log_sum_exp<Number>(row);
    for (int64_t v = 0; v < V; ++v) {
      const Number p = exp(row[v] - total);
      dlogits[t * V + v] += scale * (v == targets[t] ? p - 1.0 : p);
    }
  }
}

}  // namespace minke::ref
