#include "ops/adamw.h"

#include <cmath>

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/dispatch.h"
#include "ops/kernels/adamw.h"

namespace minke::ops {

void adamw(const Tensor& weight, const Tensor& m, const Tensor& v, const Tensor& gradient,
           const AdamW& how) {
  const Profiled profiled("adamw");
  MINKE_CHECK(m.shape() == weight.shape() && v.shape() == weight.shape() &&
              gradient.shape() == weight.shape());
  MINKE_CHECK(how.step >= 1, "step {}", how.step);
  const auto correction = [&](float beta) {
    return static_cast<float>(
        1 / (1 - std::pow(static_cast<double>(beta), static_cast<double>(how.step))));
  };
  const kernels::AdamWFactors factors{
      .lr = how.lr,
      .beta1 = how.beta1,
      .one_minus_beta1 = static_cast<float>(1 - static_cast<double>(how.beta1)),
      .beta2 = how.beta2,
      .one_minus_beta2 = static_cast<float>(1 - static_cast<double>(how.beta2)),
      .eps = how.eps,
      .weight_decay = how.weight_decay,
      .gradient_scale = how.gradient_scale,
      .m_correction = correction(how.beta1),
      .v_correction = correction(how.beta2)};
  float* w = weight.data<float>();
  float* first = m.data<float>();
  float* second = v.data<float>();
  const float* g = gradient.data<float>();
  const auto step = MINKE_KERNELS(kernels::AdamWKernels, adamw_kernels)->step;
  parallel_for(weight.count(), rows_per_chunk(1), [&](int64_t begin, int64_t end) {
    step(w + begin, first + begin, second + begin, g + begin, factors, end - begin);
  });
}

}  // namespace minke::ops
