// RMSNorm: y = x / sqrt(mean(x^2) + eps) * w.
#pragma once

#include <cmath>

#include "ref/ref.h"

namespace minke::ref {

// 1 / sqrt(mean(x^2) + eps) of one row.
template <typename Number>
Number inverse_rms(In<Number> x, double eps) {
  Number squares = 0;
  for (const Number& v : x) squares += v * v;
  using std::sqrt;
  return 1.0 / sqrt(squares / static_cast<double>(x.size()) + eps);
}

// y, x [T, D]; w [D].
template <typename Number>
void rms_norm(Out<Number> y, In<Number> x, In<Number> w, int64_t T, int64_t D, double eps) {
  for (int64_t t = 0; t < T; ++t) {
    const Number r = inverse_rms<Number>(x.subspan(t * D, D), eps);
    for (int64_t i = 0; i < D; ++i) y[t * D + i] = x[t * D + i] * r * w[i];
  }
}

template <typename Number>
void rms_norm_backward(Out<Number> dx, Out<Number> dw, In<Number> dy, In<Number> x, In<Number> w,
                       int64_t T, int64_t D, double eps) {
  for (int64_t t = 0; t < T; ++t) {
    const Number r = inverse_rms<Number>(x.subspan(t * D, D), eps);
    // dr/dx_i = -r^3 x_i / D
    Number dr = 0;
    for (int64_t i = 0; i < D; ++i) dr += dy[t * D + i] * w[i] * x[t * D + i];
    for (int64_t i = 0; i < D; ++i) {
      const int64_t at = t * D + i;
      dx[at] += dy[at] * w[i] * r - dr * r * r * r * x[at] / static_cast<double>(D);
      dw[i] += dy[at] * x[at] * r;
    }
  }
}

}  // namespace minke::ref
