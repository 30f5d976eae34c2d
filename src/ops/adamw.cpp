#include "ops/adamw.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/hash.h"
#include "base/profile.h"
#include "ops/chunks.h"
#include "ops/dispatch.h"
#include "ops/kernels/adamw.h"

namespace minke::ops {
namespace {

kernels::AdamWFactors factors_of(const AdamW& how) {
  const auto correction = [&](float beta) {
    return static_cast<float>(
        1 / (1 - std::pow(static_cast<double>(beta), static_cast<double>(how.step))));
  };
  return {.lr = how.lr,
          .beta1 = how.beta1,
          .one_minus_beta1 = static_cast<float>(1 - static_cast<double>(how.beta1)),
          .beta2 = how.beta2,
          .one_minus_beta2 = static_cast<float>(1 - static_cast<double>(how.beta2)),
          .eps = how.eps,
          .weight_decay = 0,
          .gradient_scale = how.gradient_scale,
          .m_correction = correction(how.beta1),
          .v_correction = correction(how.beta2)};
}

bool is_packed(const AdamWUpdate& u) {
  return u.by_rows.data != nullptr || u.by_columns.data != nullptr ||
         u.codes.by_rows.data != nullptr;
}

// Numbers of a chunk: whole rows of what is packed, else any.
int64_t chunk_numbers(const AdamWUpdate& u) {
  return is_packed(u) ? kPackRows * u.weight.dim(1) : rows_per_chunk(1);
}

void check(const AdamWUpdate& u) {
  MINKE_CHECK(u.m.shape() == u.weight.shape() && u.v.shape() == u.weight.shape() &&
              u.gradient.shape() == u.weight.shape());
  MINKE_CHECK(u.m.dtype() == u.v.dtype());
  MINKE_CHECK(u.average.empty() || u.average.shape() == u.weight.shape());
  if (u.by_rows.data != nullptr) check(PackJob{u.by_rows, u.weight}, false);
  if (u.by_columns.data != nullptr) check(PackJob{u.by_columns, u.weight}, true);
  if (u.codes.by_rows.data != nullptr) check(QuantizeJob{u.codes, u.weight});
}

}  // namespace

void adamw(std::span<const AdamWUpdate> updates, const AdamW& how) {
  const Profiled profiled("adamw");
  MINKE_CHECK(how.step >= 1, "step {}", how.step);
  Chunks chunks;
  for (const AdamWUpdate& u : updates) {
    check(u);
    chunks.add(u.weight.count() == 0 ? 0 : ceil_div(u.weight.count(), chunk_numbers(u)));
  }
  const kernels::AdamWFactors shared = factors_of(how);
  const auto kernel = MINKE_KERNELS(kernels::AdamWKernels, adamw_kernels);
  chunks.run([&](size_t i, int64_t chunk) {
    const AdamWUpdate& u = updates[i];
    kernels::AdamWFactors factors = shared;
    factors.weight_decay = u.weight_decay;
    const int64_t begin = chunk * chunk_numbers(u);
    const int64_t count = std::min(chunk_numbers(u), u.weight.count() - begin);
    float* weight = u.weight.data<float>() + begin;
    const float* gradient = u.gradient.data<float>() + begin;
    if (u.m.dtype() == DType::kF32) {
      kernel->step(weight, u.m.data<float>() + begin, u.v.data<float>() + begin, gradient, factors,
                   count);
    } else if (!u.rounding) {
      kernel->step_nearest(weight, u.m.data<bf16>() + begin, u.v.data<bf16>() + begin, gradient,
                           factors, count);
    } else {
      const std::array<uint64_t, 2> stream = {*u.rounding, static_cast<uint64_t>(chunk)};
      kernel->step_random(weight, u.m.data<bf16>() + begin, u.v.data<bf16>() + begin, gradient,
                          factors, hash64(stream.data(), sizeof stream), count);
    }
    if (!u.average.empty()) {
      kernel->average(u.average.data<float>() + begin, weight, how.average_rate, count);
    }
    if (u.by_rows.data != nullptr) pack_rows_part({u.by_rows, u.weight}, chunk * kPackRows);
    if (u.by_columns.data != nullptr) {
      pack_columns_part({u.by_columns, u.weight}, chunk * kPackRows);
    }
    if (u.codes.by_rows.data != nullptr) {
      quantize_weight_part({u.codes, u.weight}, chunk * kPackRows);
    }
  });
}

}  // namespace minke::ops
