// A linear layer's product and its two gradients. x [M, K], w [N, K], y [M, N].
#pragma once

#include "ref/ref.h"

namespace minke::ref {

// y = x w^T (fprop)
template <typename Number>
void matmul(Out<Number> y, In<Number> x, In<Number> w, int64_t M, int64_t N, int64_t K) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      Number sum = 0;
      for (int64_t k = 0; k < K; ++k) sum += x[m * K + k] * w[n * K + k];
      y[m * N + n] = sum;
    }
  }
}

// dx += dy w (dgrad)
template <typename Number>
void matmul_dgrad(Out<Number> dx, In<Number> dy, In<Number> w, int64_t M, int64_t N, int64_t K) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t k = 0; k < K; ++k) dx[m * K + k] += dy[m * N + n] * w[n * K + k];
    }
  }
}

// dw += dy^T x (wgrad)
template <typename Number>
void matmul_wgrad(Out<Number> dw, In<Number> dy, In<Number> x, int64_t M, int64_t N, int64_t K) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t k = 0; k < K; ++k) dw[n * K + k] += dy[m * N + n] * x[m * K + k];
    }
  }
}

}  // namespace minke::ref
