#include "ops/kernels/adamw.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

// The new moments go to keep_m, keep_v; the weights descend by them before they are rounded.
template <typename Moment, typename Kept>
void descend(float* w, const Moment* m, const Moment* v, Kept* keep_m, Kept* keep_v, const float* g,
             const AdamWFactors& f, int64_t count) {
  constexpr int64_t kAhead = 512;
  for_each_in_step(count, [&](int64_t i, auto n) {
    prefetch_n(g + i + kAhead, n);
    prefetch_n(m + i + kAhead, n);
    prefetch_n(v + i + kAhead, n);
    prefetch_n(w + i + kAhead, n);
    const auto gradient = load_n(g + i, n) * splat(f.gradient_scale);
    const auto first = splat(f.beta1) * load_n(m + i, n) + splat(f.one_minus_beta1) * gradient;
    const auto second =
        splat(f.beta2) * load_n(v + i, n) + splat(f.one_minus_beta2) * gradient * gradient;
    const auto weight = load_n(w + i, n);
    const auto descent =
        first * splat(f.m_correction) / (sqrt(second * splat(f.v_correction)) + splat(f.eps));
    store_n(keep_m + i, first, n);
    store_n(keep_v + i, second, n);
    store_n(w + i, weight - splat(f.lr) * (descent + splat(f.weight_decay) * weight), n);
  });
}

void step(float* w, float* m, float* v, const float* g, const AdamWFactors& f, int64_t count) {
  descend(w, m, v, m, v, g, f, count);
}

void step_nearest(float* w, bf16* m, bf16* v, const float* g, const AdamWFactors& f,
                  int64_t count) {
  descend(w, m, v, m, v, g, f, count);
}

// 32 random bits of a place in a stream: two rounds of multiply and shift, each bit of the place
// and of the key moving every bit that comes out with a probability near a half.
inline uint32_t draw(uint32_t place, uint32_t low, uint32_t high) {
  uint32_t x = place + low;
  x = (x ^ (x >> 16)) * 0x21f0aaadU;
  x = (x ^ (x >> 15) ^ high) * 0x735a2d97U;
  return x ^ (x >> 15);
}

// Adds 16 random bits below what is kept, so that a number goes up as often as it lies high between
// its neighbours; one that BF16 holds stays.
inline uint16_t round_at_random(float x, uint32_t bits) {
  return static_cast<uint16_t>((__builtin_bit_cast(uint32_t, x) + (bits & 0xffffU)) >> 16);
}

void step_random(float* w, bf16* m, bf16* v, const float* g, const AdamWFactors& f, uint64_t key,
                 int64_t count) {
  constexpr int64_t kBlock = 512;
  float first[kBlock], second[kBlock];
  const auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = count - begin < kBlock ? count - begin : kBlock;
    descend(w + begin, m + begin, v + begin, first, second, g + begin, f, n);
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = draw(static_cast<uint32_t>(begin + i), low, high);
      m[begin + i].bits = round_at_random(first[i], bits);
      v[begin + i].bits = round_at_random(second[i], bits >> 16);
    }
  }
}

void average(float* average, const float* w, float rate, int64_t count) {
  for_each_vector(count, [&](int64_t i, int n) {
    const Vec before = load_n(average + i, n);
    store_n(average + i, before + splat(rate) * (load_n(w + i, n) - before), n);
  });
}

}  // namespace

const AdamWKernels& adamw_kernels() {
  static constexpr AdamWKernels kTable{step, step_nearest, step_random, average};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
