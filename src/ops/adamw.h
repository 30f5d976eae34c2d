// AdamW (Loshchilov and Hutter 2019): one step of one tensor.
#pragma once

#include "tensor/tensor.h"

namespace minke::ops {

struct AdamW {
  float lr = 0, beta1 = 0.9F, beta2 = 0.95F, eps = 1e-8F, weight_decay = 0;
  int64_t step = 1;          // from 1: bias correction
  float gradient_scale = 1;  // clipping: multiplies the gradient
};
// weight, m, v, gradient: FP32 of one shape. weight -= lr * (m^ / (sqrt(v^) + eps) + weight_decay *
// weight).
void adamw(const Tensor& weight, const Tensor& m, const Tensor& v, const Tensor& gradient,
           const AdamW& how);

}  // namespace minke::ops
