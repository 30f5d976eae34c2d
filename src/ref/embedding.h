// Token embedding: x[t] = w[tokens[t]].
#pragma once

#include "ref/permute.h"

namespace minke::ref {

// x [T, D], w [V, D].
template <typename Number>
void embedding(Out<Number> x, In<Number> w, In<int32_t> tokens, int64_t D) {
  gather_rows<Number>(x, w, tokens, D);
}

template <typename Number>
void embedding_backward(Out<Number> dw, In<Number> dx, In<int32_t> tokens, int64_t D) {
  gather_rows_backward<Number>(dw, dx, tokens, D);
}

}  // namespace minke::ref
