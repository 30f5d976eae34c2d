// AdamW (Loshchilov and Hutter 2019): one step of some tensors, and of what is packed from them.
#pragma once

#include <optional>
#include <span>

#include "ops/quantize.h"

namespace minke::ops {

struct AdamW {
  float lr = 0, beta1 = 0.9F, beta2 = 0.95F, eps = 1e-8F;
  int64_t step = 1;          // from 1: bias correction
  float gradient_scale = 1;  // clipping: multiplies the gradient
  float average_rate = 0;    // how far averages move towards the new weights
};

// weight, gradient, m, v: of one shape; FP32, but m and v may be BF16: then they are rounded to
// nearest even, or, where `rounding` is the key of a stream of random numbers, to the one or the
// other neighbour so that the mean is right. weight -= lr * (m^ / (sqrt(v^) + eps) + weight_decay *
// weight). `average`, where there is one, likewise FP32: average += average_rate * (weight -
// average), with the new weight. Where `by_rows` and `by_columns` have memory, the new weight is
// packed there as pack_rows and pack_columns would; where `codes` have, quantised there as
// quantize_weights would: its rows are still in the cache.
struct AdamWUpdate {
  Tensor weight, m, v, gradient;
  float weight_decay = 0;
  Packed by_rows, by_columns;
  Tensor average = {};
  std::optional<uint64_t> rounding = {};
  WeightCodes codes = {};
};
void adamw(std::span<const AdamWUpdate> updates, const AdamW& how);

}  // namespace minke::ops
