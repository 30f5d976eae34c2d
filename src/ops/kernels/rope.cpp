#include "ops/kernels/rope.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

// (a, b) -> (a cos - b sin, b cos + a sin): with factors laid out as the numbers are, cos twice and
// sin with its sign, that is x * cos + swapped(x) * sin.
constexpr int64_t kPairs = 64;  // whose factors are laid out at once

template <typename X>
inline void rotate_pairs(X* y, const X* x, const float* cos, const float* sin, int64_t numbers) {
#if defined(MINKE_TARGET_scalar)
  for (int64_t i = 0; i < numbers; i += 2) {
    const Vec a = load(x + i), b = load(x + i + 1);
    store(y + i, a * load(cos + i) + b * load(sin + i));
    store(y + i + 1, b * load(cos + i + 1) + a * load(sin + i + 1));
  }
#else
  for_each_vector(numbers, [&](int64_t i, int n) {
    const Vec v = load_n(x + i, n);
    store_n(y + i, fma(swap_pairs(v), load_n(sin + i, n), v * load_n(cos + i, n)), n);
  });
#endif
}

template <typename X>
void rotate(const Matrix& dst, const Matrix& src, const RopeRows& how, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* cos = how.cos + how.positions[r] * how.half;
    const float* sin = how.sin + how.positions[r] * how.half;
    for (int64_t pair = 0; pair < how.half; pair += kPairs) {
      const int64_t pairs = how.half - pair < kPairs ? how.half - pair : kPairs;
      float twice_cos[2 * kPairs], signed_sin[2 * kPairs];
      for (int64_t i = 0; i < pairs; ++i) {
        const float s = how.inverse ? -sin[pair + i] : sin[pair + i];
        twice_cos[2 * i] = twice_cos[2 * i + 1] = cos[pair + i];
        signed_sin[2 * i] = -s;
        signed_sin[2 * i + 1] = s;
      }
      const int64_t at = how.offset + 2 * pair;
      for (int64_t h = 0; h < how.heads; ++h) {
        rotate_pairs(row_of<X>(dst, r) + h * how.width + at, row_of<X>(src, r) + h * how.width + at,
                     twice_cos, signed_sin, 2 * pairs);
      }
    }
  }
}

}  // namespace

const RopeKernels& rope_kernels() {
  static constexpr RopeKernels kTable{{rotate<float>, rotate<bf16>}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
