// A vector of FP32 for kernels that are the same on every instruction set: `Vec` with kLanes lanes
// (1, 8 or 16). BF16 is loaded exactly and stored with nearest even. To be included by files of
// ops/kernels only: everything lives in the namespace of the set (MINKE_TARGET).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if !defined(MINKE_TARGET_scalar)
// GCC 12 takes its own "undefined" vectors for mistakes (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include "ops/matrix.h"

// Everything called is inlined. Not under sanitizers: their checks make of it functions that keep
// GCC's register allocator for a minute each.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MINKE_FLATTEN
#else
#define MINKE_FLATTEN [[gnu::flatten]]
#endif

namespace minke::ops::kernels::MINKE_TARGET {

#if defined(MINKE_TARGET_avx512)

inline constexpr int kLanes = 16;
struct Vec {
  __m512 v;
};
inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec splat(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec load(const bf16* p) {
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
inline __mmask16 lanes(int n) { return static_cast<__mmask16>((1U << n) - 1U); }
// The first n lanes (0 <= n < kLanes), the others zero.
inline Vec load_partial(const float* p, int n) { return {_mm512_maskz_loadu_ps(lanes(n), p)}; }
inline Vec load_partial(const bf16* p, int n) {
  const __m256i h = _mm256_maskz_loadu_epi16(lanes(n), p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
// Nearest even by integer arithmetic.
inline __m256i subnormal_to_bf16(__m512 a, __mmask16 subnormal, __m256i others) {
  const __m512i u = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_mask_cvtepi32_epi16(others, subnormal, _mm512_srli_epi32(r, 16));
}
// VCVTNEPS2BF16 rounds to nearest even and keeps NaN, but flushes subnormals; those are rare.
inline __m256i to_bf16(Vec a) {
  const auto codes = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v));
  constexpr int kSubnormal = 0x20;
  const __mmask16 subnormal = _mm512_fpclass_ps_mask(a.v, kSubnormal);
  if (__builtin_expect(subnormal != 0, 0)) return subnormal_to_bf16(a.v, subnormal, codes);
  return codes;
}
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void store(bf16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(a));
}
inline void store_partial(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, lanes(n), a.v); }
inline void store_partial(bf16* p, Vec a, int n) {
  _mm256_mask_storeu_epi16(p, lanes(n), to_bf16(a));
}
// Past the caches; p is at a multiple of the bytes stored.
inline void stream(float* p, Vec a) { _mm512_stream_ps(p, a.v); }
inline void stream(bf16* p, Vec a) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_bf16(a));
}
inline void stream_line(void* to, const void* from) {
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_loadu_si512(from));
}
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, 0)}; }
// a * 2^n for integral n.
inline Vec scale_by_power(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
// The first n lanes of a, the others of b.
inline Vec first_lanes(int n, Vec a, Vec b) { return {_mm512_mask_blend_ps(lanes(n), b.v, a.v)}; }
// Lanes 0 and 1 change places, 2 and 3, ...
inline Vec swap_pairs(Vec a) { return {_mm512_permute_ps(a.v, 0xb1)}; }
inline float reduce_add(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float reduce_max(Vec a) { return _mm512_reduce_max_ps(a.v); }

#elif defined(MINKE_TARGET_avx2)

inline constexpr int kLanes = 8;
struct Vec {
  __m256 v;
};
inline Vec zero() { return {_mm256_setzero_ps()}; }
inline Vec splat(float x) { return {_mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec widen(__m128i h) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
}
inline Vec load(const bf16* p) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __m256i lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load_partial(const float* p, int n) { return {_mm256_maskload_ps(p, lanes(n))}; }
inline Vec load_partial(const bf16* p, int n) {
  alignas(16) uint16_t h[8] = {};
  std::memcpy(h, p, static_cast<size_t>(n) * 2);
  return widen(_mm_load_si128(reinterpret_cast<const __m128i*>(h)));
}
inline __m128i to_bf16(Vec a) {
  const __m256i u = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0xd8);
  return _mm256_castsi256_si128(packed);
}
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline void store(bf16* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16(a)); }
inline void store_partial(float* p, Vec a, int n) { _mm256_maskstore_ps(p, lanes(n), a.v); }
inline void store_partial(bf16* p, Vec a, int n) {
  alignas(16) uint16_t h[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(h), to_bf16(a));
  std::memcpy(static_cast<void*>(p), h, static_cast<size_t>(n) * 2);
}
inline void stream(float* p, Vec a) { _mm256_stream_ps(p, a.v); }
inline void stream(bf16* p, Vec a) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), to_bf16(a)); }
inline void stream_line(void* to, const void* from) {
  for (int i = 0; i < 2; ++i) {
    _mm256_stream_si256(static_cast<__m256i*>(to) + i,
                        _mm256_loadu_si256(static_cast<const __m256i*>(from) + i));
  }
}
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline Vec round(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n for integral n in [-252, 254], in two steps so that subnormal results come out.
inline Vec scale_by_power(Vec a, Vec n) {
  const __m256i i = _mm256_cvtps_epi32(n.v);
  const __m256i half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256 p = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 q = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, p), q)};
}
// The first n lanes of a, the others of b.
inline Vec first_lanes(int n, Vec a, Vec b) {
  return {_mm256_blendv_ps(b.v, a.v, _mm256_castsi256_ps(lanes(n)))};
}
inline Vec swap_pairs(Vec a) { return {_mm256_permute_ps(a.v, 0xb1)}; }
inline float reduce_add(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline float reduce_max(Vec a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}

#else

inline constexpr int kLanes = 1;
struct Vec {
  float v;
};
inline Vec zero() { return {0.0F}; }
inline Vec splat(float x) { return {x}; }
inline Vec load(const float* p) { return {*p}; }
inline Vec load(const bf16* p) { return {static_cast<float>(*p)}; }
inline Vec load_partial(const float*, int) { return zero(); }
inline Vec load_partial(const bf16*, int) { return zero(); }
inline void store(float* p, Vec a) { *p = a.v; }
inline void store(bf16* p, Vec a) { *p = bf16(a.v); }
inline void store_partial(float*, Vec, int) {}
inline void store_partial(bf16*, Vec, int) {}
inline void stream(float* p, Vec a) { store(p, a); }
inline void stream(bf16* p, Vec a) { store(p, a); }
inline void stream_line(void* to, const void* from) { __builtin_memcpy(to, from, 64); }
inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
inline Vec sqrt(Vec a) { return {std::sqrt(a.v)}; }
inline Vec round(Vec a) { return {std::nearbyint(a.v)}; }
inline Vec scale_by_power(Vec a, Vec n) { return {std::ldexp(a.v, static_cast<int>(n.v))}; }
inline Vec first_lanes(int, Vec, Vec b) { return b; }
inline float reduce_add(Vec a) { return a.v; }
inline float reduce_max(Vec a) { return a.v; }

#endif

// Four vectors that go through a computation in step, operation by operation. A long chain of
// operations on one vector waits for each of them, and processors look ahead no further than a few
// such chains; in step, the next operation of another vector is always at hand.
struct Wide {
  static constexpr int kVectors = 4;
  Vec part[kVectors];
  Wide() = default;
  Wide(Vec a) : part{a, a, a, a} {}  // NOLINT(google-explicit-constructor): constants
};
template <typename Part>
[[gnu::always_inline]] inline Wide in_step(Part&& part) {
  Wide out;
  for (int j = 0; j < Wide::kVectors; ++j) out.part[j] = part(j);
  return out;
}
inline Wide operator+(const Wide& a, const Wide& b) {
  return in_step([&](int j) { return a.part[j] + b.part[j]; });
}
inline Wide operator-(const Wide& a, const Wide& b) {
  return in_step([&](int j) { return a.part[j] - b.part[j]; });
}
inline Wide operator*(const Wide& a, const Wide& b) {
  return in_step([&](int j) { return a.part[j] * b.part[j]; });
}
inline Wide operator/(const Wide& a, const Wide& b) {
  return in_step([&](int j) { return a.part[j] / b.part[j]; });
}
inline Wide fma(const Wide& a, const Wide& b, const Wide& c) {
  return in_step([&](int j) { return fma(a.part[j], b.part[j], c.part[j]); });
}
inline Wide max(const Wide& a, const Wide& b) {
  return in_step([&](int j) { return max(a.part[j], b.part[j]); });
}
inline Wide min(const Wide& a, const Wide& b) {
  return in_step([&](int j) { return min(a.part[j], b.part[j]); });
}
inline Wide sqrt(const Wide& a) {
  return in_step([&](int j) { return sqrt(a.part[j]); });
}
inline Wide round(const Wide& a) {
  return in_step([&](int j) { return round(a.part[j]); });
}
inline Wide scale_by_power(const Wide& a, const Wide& n) {
  return in_step([&](int j) { return scale_by_power(a.part[j], n.part[j]); });
}
inline void store(float* p, const Wide& a) {
  for (int j = 0; j < Wide::kVectors; ++j) store(p + j * kLanes, a.part[j]);
}
inline void stream(float* p, const Wide& a) {
  for (int j = 0; j < Wide::kVectors; ++j) stream(p + j * kLanes, a.part[j]);
}
#if defined(MINKE_TARGET_avx512)
// VCVTNE2PS2BF16 makes zeros of subnormals. Zeros are few: where there are none, nothing was lost.
template <bool kStream>
[[gnu::always_inline]] inline void write(bf16* p, const Wide& a) {
  constexpr int kPairs = Wide::kVectors / 2;
  __m512i codes[kPairs];
  __mmask32 zeros = 0;
  for (int j = 0; j < kPairs; ++j) {
    codes[j] = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(a.part[2 * j + 1].v, a.part[2 * j].v));
    zeros |= _mm512_testn_epi16_mask(codes[j], _mm512_set1_epi16(0x7fff));
  }
  if (__builtin_expect(zeros != 0, 0)) {
    for (int j = 0; j < kPairs; ++j) {
      codes[j] = _mm512_inserti64x4(_mm512_castsi256_si512(to_bf16(a.part[2 * j])),
                                    to_bf16(a.part[2 * j + 1]), 1);
    }
  }
  for (int j = 0; j < kPairs; ++j) {
    auto* line = reinterpret_cast<__m512i*>(p + j * 2 * kLanes);
    kStream ? _mm512_stream_si512(line, codes[j]) : _mm512_storeu_si512(line, codes[j]);
  }
}
inline void store(bf16* p, const Wide& a) { write<false>(p, a); }
inline void stream(bf16* p, const Wide& a) { write<true>(p, a); }
#else
inline void store(bf16* p, const Wide& a) {
  for (int j = 0; j < Wide::kVectors; ++j) store(p + j * kLanes, a.part[j]);
}
inline void stream(bf16* p, const Wide& a) {
  for (int j = 0; j < Wide::kVectors; ++j) stream(p + j * kLanes, a.part[j]);
}
#endif

// e^(kSign a), within 2 units in the last place for kSign a in [-87, 88]; saturates to 0 and
// infinity outside; NaN stays NaN (max and min return their second argument where one is NaN).
// Cody-Waite reduction by ln 2 and a polynomial on [-ln2/2, ln2/2] that interpolates e^r at the
// Chebyshev nodes: its relative error is below 2.1e-8, a third of a rounding. The sign is the
// constants', which costs nothing; r is then -r, and every rounding the same.
template <int kSign = 1, typename V>
[[gnu::always_inline]] inline V exp(const V& a) {
  constexpr float kLeast = kSign > 0 ? -104.0F : -88.9F, kMost = kSign > 0 ? 88.9F : 104.0F;
  const V clamped = max(splat(kLeast), min(splat(kMost), a));
  const V n = round(clamped * splat(kSign * 1.44269504F));
  V r = fma(n, splat(kSign * -0.693145752F), clamped);
  r = fma(n, splat(kSign * -1.42860677e-6F), r);
  V p = fma(splat(1.39411609e-3F), r, splat(kSign * 8.37516785e-3F));
  p = fma(p, r, splat(4.16663513e-2F));
  p = fma(p, r, splat(kSign * 1.66664153e-1F));
  p = fma(p, r, splat(0.5F));
  p = fma(p, r, splat(kSign * 1.0F));
  p = fma(p, r, splat(1.0F));
  return scale_by_power(p, n);
}

// 1 / (1 + e^-a)
template <typename V>
[[gnu::always_inline]] inline V sigmoid(const V& a) {
  return splat(1.0F) / (splat(1.0F) + exp<-1>(a));
}

// How many numbers a body works on: `InStep` for a Wide of them, an int for a vector or a part of
// one. load_n, store_n, stream_n and keep_n take it.
struct InStep {
  static constexpr int kNumbers = Wide::kVectors * kLanes;
};
template <typename T>
inline Vec load_n(const T* p, int n) {
  return n == kLanes ? load(p) : load_partial(p, n);
}
template <typename T>
inline void store_n(T* p, Vec a, int n) {
  if (n == kLanes) {
    store(p, a);
  } else {
    store_partial(p, a, n);
  }
}
template <typename T>
inline Wide load_n(const T* p, InStep) {
  return in_step([&](int j) { return load(p + j * kLanes); });
}
template <typename T>
inline void store_n(T* p, const Wide& a, InStep) {
  store(p, a);
}
// Past the caches, but for what is less than a vector.
template <typename T>
inline void stream_n(T* p, Vec a, int n) {
  n == kLanes ? stream(p, a) : store_n(p, a, n);
}
template <typename T>
inline void stream_n(T* p, const Wide& a, InStep) {
  stream(p, a);
}
template <bool kStream, typename T, typename V, typename N>
inline void write_n(T* p, const V& a, N n) {
  kStream ? stream_n(p, a, n) : store_n(p, a, n);
}
// The first n lanes, the others zero.
inline Vec keep_n(Vec a, int n) { return n == kLanes ? a : first_lanes(n, a, zero()); }
inline Wide keep_n(const Wide& a, InStep) { return a; }

// Calls body(i, n) over [0, count): n = kLanes for whole vectors, then once n < kLanes for the
// rest.
template <typename Body>
inline void for_each_vector(int64_t count, Body&& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, kLanes);
  if (i < count) body(i, static_cast<int>(count - i));
}
// The same, in step as far as that goes.
template <typename Body>
MINKE_FLATTEN inline void for_each_in_step(int64_t count, Body&& body) {
  int64_t i = 0;
  for (; i + InStep::kNumbers <= count; i += InStep::kNumbers) body(i, InStep{});
  for (; i + kLanes <= count; i += kLanes) body(i, kLanes);
  if (i < count) body(i, static_cast<int>(count - i));
}
// What was streamed becomes visible before what the thread stores later.
inline void end_streams() {
#if !defined(MINKE_TARGET_scalar)
  _mm_sfence();
#endif
}
// Asks for the cache line at p, which need not be anyone's: a kernel that computes much on rows
// asks for the next one, since processors look no further than a page.
inline void prefetch(const void* p) { __builtin_prefetch(p); }

template <typename T>
inline void prefetch_n(const T* p, int) {
  prefetch(p);
}
template <typename T>
inline void prefetch_n(const T* p, InStep) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  for (int i = 0; i < InStep::kNumbers; i += kLine) prefetch(p + i);
}

// The sum of term(i, n) over [0, count), as for_each_in_step would call it, in four running sums
// whose order is fixed. Lanes beyond n must be zero.
template <typename Term>
MINKE_FLATTEN inline float sum_vectors(int64_t count, Term&& term) {
  Wide sum = zero();
  int64_t i = 0;
  for (; i + InStep::kNumbers <= count; i += InStep::kNumbers) sum = sum + term(i, InStep{});
  for (; i + kLanes <= count; i += kLanes) sum.part[0] = sum.part[0] + term(i, kLanes);
  if (i < count) sum.part[1] = sum.part[1] + term(i, static_cast<int>(count - i));
  return reduce_add((sum.part[0] + sum.part[1]) + (sum.part[2] + sum.part[3]));
}

// The largest of count >= 1 numbers.
inline float max_vectors(int64_t count, const float* x) {
  Vec top = splat(x[0]);
  for_each_vector(count, [&](int64_t i, int n) {
    const Vec v = load_n(x + i, n);
    top = max(top, n == kLanes ? v : first_lanes(n, v, top));
  });
  return reduce_max(top);
}

// A row of a matrix whose dtype the caller chose the kernel by. (Kernels call no inline function of
// other namespaces: the linker could hand one set's copy of it to another.)
template <typename T>
inline T* row_of(const Matrix& matrix, int64_t r) {
  return static_cast<T*>(matrix.data) + r * matrix.stride;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
