// Token embedding.
#pragma once

#include <span>

#include "ops/matrix.h"

namespace minke::ops {

// x_TD[t] = w_VD[tokens[t]]. w FP32 or BF16, x FP32. Every token is in [0, V): MINKE_CHECK, so no
// id reaches memory unchecked.
void embedding(const Matrix& x_TD, const Tensor& w_VD, std::span<const int32_t> tokens);

// dw_VD += dx rows by token, in the order of the tokens, for any number of threads. FP32.
void embedding_backward(const Tensor& dw_VD, const Matrix& dx_TD, std::span<const int32_t> tokens);

}  // namespace minke::ops
