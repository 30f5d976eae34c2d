// What is computed number by number: SwiGLU, conversions, sums.
#pragma once

#include "ops/matrix.h"

namespace minke::ops {

// h_TF = silu(gate) * up * weight, with gate_up [T, 2F]: gate, then up, in each row. weight_T
// (FP32, may be empty: 1) is a token's gate weight for the expert: scaling here equals scaling the
// expert's output.
void swiglu(const Matrix& h_TF, const Matrix& gate_up, const Tensor& weight_T);

// d_gate_up [T, 2F] is overwritten; dweight_T (FP32) too where weight_T is given: sum_f dh *
// silu(gate) * up. h_TF (of gate_up's format, may be empty) becomes what swiglu makes.
void swiglu_backward(const Matrix& d_gate_up, const Tensor& dweight_T, const Matrix& h_TF,
                     const Matrix& dh_TF, const Matrix& gate_up, const Tensor& weight_T);

// dst = src, converted (FP32, BF16).
void convert(const Matrix& dst, const Matrix& src);
// y += x (y FP32; x FP32 or BF16).
void add(const Matrix& y, const Matrix& x);

// Sum of squares (FP32 tensor) in double, over fixed blocks in order: the same for any number of
// threads.
double sum_of_squares(const Tensor& x);

}  // namespace minke::ops
