// Rows in the order of experts, and back.
#pragma once

#include "ref/ref.h"

namespace minke::ref {

struct ExpertOrder {
  std::vector<int64_t> offsets;  // [E + 1]: rows [offsets[e], offsets[e + 1]) belong to expert e
  std::vector<int32_t> token;    // [R = T K]: the token of each row
  std::vector<int32_t> row;      // [T, K]: the row of each token's choice
};

// experts [T, K]. Rows by ascending expert, then token, then choice.
inline ExpertOrder sort_by_expert(In<int32_t> experts, int64_t T, int64_t K, int64_t E) {
  ExpertOrder order;
  order.row.resize(T * K);
  order.offsets.push_back(0);
  for (int64_t e = 0; e < E; ++e) {
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t k = 0; k < K; ++k) {
        if (experts[t * K + k] != e) continue;
        order.row[t * K + k] = static_cast<int32_t>(order.token.size());
        order.token.push_back(static_cast<int32_t>(t));
      }
    }
    order.offsets.push_back(static_cast<int64_t>(order.token.size()));
  }
  return order;
}

// y [R, D]: y[r] = x[token[r]]; x [T, D]. Also the embedding: y = w[tokens].
template <typename Number>
void gather_rows(Out<Number> y, In<Number> x, In<int32_t> token, int64_t D) {
  for (size_t r = 0; r < token.size(); ++r) {
    for (int64_t i = 0; i < D; ++i) y[r * D + i] = x[token[r] * D + i];
  }
}

template <typename Number>
void gather_rows_backward(Out<Number> dx, In<Number> dy, In<int32_t> token, int64_t D) {
  for (size_t r = 0; r < token.size(); ++r) {
    for (int64_t i = 0; i < D; ++i) dx[token[r] * D + i] += dy[r * D + i];
  }
}

// y [T, D]: y[t] = sum_k x[row[t, k]]; x [R, D], row [T, K].
template <typename Number>
void combine_rows(Out<Number> y, In<Number> x, In<int32_t> row, int64_t T, int64_t K, int64_t D) {
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t i = 0; i < D; ++i) {
      Number sum = 0;
      for (int64_t k = 0; k < K; ++k) sum += x[row[t * K + k] * D + i];
      y[t * D + i] = sum;
    }
  }
}

template <typename Number>
void combine_rows_backward(Out<Number> dx, In<Number> dy, In<int32_t> row, int64_t T, int64_t K,
                           int64_t D) {
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t i = 0; i < D; ++i) dx[row[t * K + k] * D + i] += dy[t * D + i];
    }
  }
}

}  // namespace minke::ref
