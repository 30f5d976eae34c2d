// AdamW (Loshchilov and Hutter 2019): one step of one tensor.
#pragma once

#include <cmath>

#include "ref/ref.h"

namespace minke::ref {

struct AdamW {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;  // from 1
  double gradient_scale = 1;
};

inline void adamw(Out<double> w, Out<double> m, Out<double> v, In<double> gradient,
                  const AdamW& how) {
  const auto step = static_cast<double>(how.step);
  for (size_t i = 0; i < w.size(); ++i) {
    const double g = gradient[i] * how.gradient_scale;
    m[i] = how.beta1 * m[i] + (1 - how.beta1) * g;
    v[i] = how.beta2 * v[i] + (1 - how.beta2) * g * g;
    const double m_hat = m[i] / (1 - std::pow(how.beta1, step));
    const double v_hat = v[i] / (1 - std::pow(how.beta2, step));
    w[i] -= how.lr * (m_hat / (std::sqrt(v_hat) + how.eps) + how.weight_decay * w[i]);
  }
}

}  // namespace minke::ref
