// Kernels of the router's scores and their backward, a row of E numbers each.
#pragma once

#include <cstdint>

#include "ops/isa.h"

namespace minke::ops::kernels {

struct RouterKernels {
  void (*sigmoid)(float* scores, const float* logits, int64_t experts);
  void (*softmax)(float* scores, const float* logits, int64_t experts);
  // d[i] = factor * (f[i] - sum_j f[j] s[j] / total) / total, with total = sum s + floor: the
  // gradient of factor * sum_i f[i] s[i] / total.
  void (*balance_backward)(float* d, const float* f, const float* scores, float factor, float floor,
                           int64_t experts);
  // In place: from the gradient of the scores to that of the logits.
  void (*sigmoid_backward)(float* d, const float* scores, int64_t experts);
  void (*softmax_backward)(float* d, const float* scores, int64_t experts);
};
MINKE_DECLARE_KERNELS(RouterKernels, router_kernels)

}  // namespace minke::ops::kernels
