// Token permutation: rows in the order of experts, and back. No token is ever dropped.
#pragma once

#include <span>

#include "ops/matrix.h"

namespace minke::ops {

// From experts_TK (I32): offsets (E + 1, I64): rows [offsets[e], offsets[e+1]) belong to expert e,
// by ascending token; token_R (I32, R = T * K): the token of each row; row_TK (I32): the row of
// each token's choice.
void sort_by_expert(std::span<int64_t> offsets, const Tensor& token_R, const Tensor& row_TK,
                    const Tensor& experts_TK);

// y_RD[r] = x_TD[token_R[r]]; FP32 or BF16 each (rounds where y is BF16 and x FP32), or both kI8,
// a multiple of four of them.
void gather_rows(const Matrix& y_RD, const Matrix& x_TD, const Tensor& token_R);

// y_TD[t] (+)= sum_k x_RD[row_TK[t, k]], in the order of k, summed in FP32. y FP32 or BF16
// (accumulate: FP32 only).
void combine_rows(const Matrix& y_TD, bool accumulate, const Matrix& x_RD, const Tensor& row_TK);

// The same for one number a row: y_R[r] = x_TK at (t, k) with row_TK[t, k] = r, and back. FP32.
void gather_weights(const Tensor& y_R, const Tensor& x_TK, const Tensor& row_TK);
void scatter_weights(const Tensor& y_TK, const Tensor& x_R, const Tensor& row_TK);

}  // namespace minke::ops
