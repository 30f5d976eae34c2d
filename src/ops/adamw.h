// AdamW (Loshchilov and Hutter 2019): one step of some tensors, and of what is packed from them.
#pragma once

#include <span>

#include "ops/matmul.h"

namespace minke::ops {

struct AdamW {
  float lr = 0, beta1 = 0.9F, beta2 = 0.95F, eps = 1e-8F;
  int64_t step = 1;          // from 1: bias correction
  float gradient_scale = 1;  // clipping: multiplies the gradient
};

// weight, m, v, gradient: FP32 of one shape. weight -= lr * (m^ / (sqrt(v^) + eps) + weight_decay *
// weight). Where `by_rows` and `by_columns` have memory, the new weight is packed there as
// pack_rows and pack_columns would: its rows are still in the cache.
struct AdamWUpdate {
  Tensor weight, m, v, gradient;
  float weight_decay = 0;
  Packed by_rows, by_columns;
};
void adamw(std::span<const AdamWUpdate> updates, const AdamW& how);

}  // namespace minke::ops
