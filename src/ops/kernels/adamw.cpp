#include "ops/kernels/adamw.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

void step(float* w, float* m, float* v, const float* g, const AdamWFactors& f, int64_t count) {
  for_each_vector(count, [&](int64_t i, int n) {
    const Vec gradient = load_n(g + i, n) * splat(f.gradient_scale);
    const Vec first = splat(f.beta1) * load_n(m + i, n) + splat(f.one_minus_beta1) * gradient;
    const Vec second =
        splat(f.beta2) * load_n(v + i, n) + splat(f.one_minus_beta2) * gradient * gradient;
    const Vec weight = load_n(w + i, n);
    const Vec descent =
        first * splat(f.m_correction) / (sqrt(second * splat(f.v_correction)) + splat(f.eps));
    store_n(m + i, first, n);
    store_n(v + i, second, n);
    store_n(w + i, weight - splat(f.lr) * (descent + splat(f.weight_decay) * weight), n);
  });
}

void average(float* average, const float* w, float rate, int64_t count) {
  for_each_vector(count, [&](int64_t i, int n) {
    const Vec before = load_n(average + i, n);
    store_n(average + i, before + splat(rate) * (load_n(w + i, n) - before), n);
  });
}

}  // namespace

const AdamWKernels& adamw_kernels() {
  static constexpr AdamWKernels kTable{step, average};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
