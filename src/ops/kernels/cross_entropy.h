// Kernels of softmax over the vocabulary, a row of logits each.
#pragma once

#include <cstdint>

#include "ops/isa.h"

namespace minke::ops::kernels {

struct SoftmaxRow {
  float top;      // the largest logit
  int64_t where;  // and the first place that holds it
  double total;   // sum of e^(logit - top)
};

struct CrossEntropyKernels {
  // In place: logits become e^(logit - top).
  SoftmaxRow (*softmax)(float* logits, int64_t n);
  // d = factor * e; by the format of d, which may be e itself.
  void (*scale[2])(void* d, const float* e, float factor, int64_t n);
};
MINKE_DECLARE_KERNELS(CrossEntropyKernels, cross_entropy_kernels)

}  // namespace minke::ops::kernels
