// Kernel of AdamW.
#pragma once

#include <cstdint>

#include "ops/isa.h"
#include "tensor/number.h"

namespace minke::ops::kernels {

// The step's constants, as FP32.
struct AdamWFactors {
  float lr, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay, gradient_scale;
  float m_correction, v_correction;  // 1 / (1 - beta^step)
};

struct AdamWKernels {
  // Multiplications and additions are rounded one by one: the same bytes on every instruction set.
  void (*step)(float* w, float* m, float* v, const float* g, const AdamWFactors& f, int64_t n);
  // With moments in BF16, rounded to nearest even; or at random, where each number draws 16 bits of
  // the stream of `key`.
  void (*step_nearest)(float* w, bf16* m, bf16* v, const float* g, const AdamWFactors& f,
                       int64_t n);
  void (*step_random)(float* w, bf16* m, bf16* v, const float* g, const AdamWFactors& f,
                      uint64_t key, int64_t n);
  // average += rate * (w - average)
  void (*average)(float* average, const float* w, float rate, int64_t n);
};
MINKE_DECLARE_KERNELS(AdamWKernels, adamw_kernels)

}  // namespace minke::ops::kernels
