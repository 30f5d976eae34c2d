// Sigmoid and SwiGLU.
#pragma once

#include <cmath>

#include "ref/ref.h"

namespace minke::ref {

template <typename Number>
Number sigmoid(const Number& x) {
  using std::exp;
  return 1.0 / (1.0 + exp(-x));
}

// h [T, F] = silu(gate) * up * weight; gate_up [T, 2F]: gate, then up, in each row. weight [T] may
// be empty: 1.
template <typename Number>
void swiglu(Out<Number> h, In<Number> gate_up, In<Number> weight, int64_t T, int64_t F) {
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t i = 0; i < F; ++i) {
      const Number gate = gate_up[t * 2 * F + i], up = gate_up[t * 2 * F + F + i];
      h[t * F + i] = gate * sigmoid(gate) * up * (weight.empty() ? Number(1) : weight[t]);
    }
  }
}

// dweight may be empty where weight is.
template <typename Number>
void swiglu_backward(Out<Number> d_gate_up, Out<Number> dweight, In<Number> dh, In<Number> gate_up,
                     In<Number> weight, int64_t T, int64_t F) {
  for (int64_t t = 0; t < T; ++t) {
    const Number w = weight.empty() ? Number(1) : weight[t];
    for (int64_t i = 0; i < F; ++i) {
      const Number gate = gate_up[t * 2 * F + i], up = gate_up[t * 2 * F + F + i];
      const Number s = sigmoid(gate), d = dh[t * F + i];
      const Number silu_slope = s + gate * s * (1.0 - s);
      d_gate_up[t * 2 * F + i] += d * w * up * silu_slope;
      d_gate_up[t * 2 * F + F + i] += d * w * gate * s;
      if (!weight.empty()) dweight[t] += d * gate * s * up;
    }
  }
}

}  // namespace minke::ref
