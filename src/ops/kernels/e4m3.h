// Numbers to E4M3 a vector at a time, bit for bit as tensor/number.h and tensor/scales.h say. To be
// included by files of ops/kernels only: everything lives in the namespace of the set
// (MINKE_TARGET).
#pragma once

#include <type_traits>

#include "ops/kernels/simd.h"
#include "tensor/number.h"

namespace minke::ops::kernels::MINKE_TARGET {

#if defined(MINKE_TARGET_avx512)

using Bits = __m512i;
inline Bits bits_of(Vec a) { return _mm512_castps_si512(a.v); }
inline Vec vec_of(Bits a) { return {_mm512_castsi512_ps(a)}; }
inline Bits all(uint32_t x) { return _mm512_set1_epi32(static_cast<int32_t>(x)); }
inline Bits larger(Bits a, Bits b) { return _mm512_max_epu32(a, b); }
inline Bits plus(Bits a, Bits b) { return _mm512_add_epi32(a, b); }
inline Bits minus(Bits a, Bits b) { return _mm512_sub_epi32(a, b); }
inline Bits both(Bits a, Bits b) { return _mm512_and_si512(a, b); }
inline Bits either(Bits a, Bits b) { return _mm512_or_si512(a, b); }
template <int kBits>
inline Bits right(Bits a) {
  return _mm512_srli_epi32(a, kBits);
}
template <int kBits>
inline Bits left(Bits a) {
  return _mm512_slli_epi32(a, kBits);
}
inline Bits where_less(Bits a, Bits b, Bits then, Bits otherwise) {
  return _mm512_mask_blend_epi32(_mm512_cmplt_epu32_mask(a, b), otherwise, then);
}
inline Bits nearest(Vec a) { return _mm512_cvtps_epi32(a.v); }
inline Vec float_of(Bits a) { return {_mm512_cvtepi32_ps(a)}; }
inline uint32_t largest_of(Bits a) { return _mm512_reduce_max_epu32(a); }
inline void store_codes(uint8_t* to, Bits codes, int n) {
  const __m128i bytes = _mm512_cvtepi32_epi8(codes);
  if (n == kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  } else {
    _mm_mask_storeu_epi8(to, static_cast<__mmask16>((1U << n) - 1U), bytes);
  }
}
inline Bits load_codes(const uint8_t* from, int n) {
  return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1U << n) - 1U), from));
}
// 2 * kLanes BF16, side by side.
inline Bits load_pairs(const bf16* from) { return _mm512_loadu_si512(from); }
inline void store_pairs(void* to, Bits pairs) { _mm512_storeu_si512(to, pairs); }
inline Bits larger_halves(Bits a, Bits b) { return _mm512_max_epu16(a, b); }
// c - a b, and a b - c, rounded once.
inline Vec product_less(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline Vec product_above(Vec a, Vec b, Vec c) { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }

#elif defined(MINKE_TARGET_avx2)

using Bits = __m256i;
inline Bits bits_of(Vec a) { return _mm256_castps_si256(a.v); }
inline Vec vec_of(Bits a) { return {_mm256_castsi256_ps(a)}; }
inline Bits all(uint32_t x) { return _mm256_set1_epi32(static_cast<int32_t>(x)); }
inline Bits larger(Bits a, Bits b) { return _mm256_max_epu32(a, b); }
inline Bits plus(Bits a, Bits b) { return _mm256_add_epi32(a, b); }
inline Bits minus(Bits a, Bits b) { return _mm256_sub_epi32(a, b); }
inline Bits both(Bits a, Bits b) { return _mm256_and_si256(a, b); }
inline Bits either(Bits a, Bits b) { return _mm256_or_si256(a, b); }
template <int kBits>
inline Bits right(Bits a) {
  return _mm256_srli_epi32(a, kBits);
}
template <int kBits>
inline Bits left(Bits a) {
  return _mm256_slli_epi32(a, kBits);
}
// Both are below 2^31.
inline Bits where_less(Bits a, Bits b, Bits then, Bits otherwise) {
  return _mm256_blendv_epi8(otherwise, then, _mm256_cmpgt_epi32(b, a));
}
inline Bits nearest(Vec a) { return _mm256_cvtps_epi32(a.v); }
inline Vec float_of(Bits a) { return {_mm256_cvtepi32_ps(a)}; }
inline uint32_t largest_of(Bits a) {
  uint32_t x[8], most = 0;
  __builtin_memcpy(x, &a, sizeof x);
  for (const uint32_t v : x) most = v > most ? v : most;
  return most;
}
inline void store_codes(uint8_t* to, Bits codes, int n) {
  const __m256i words = _mm256_packus_epi32(codes, codes);
  const __m256i bytes = _mm256_packus_epi16(words, words);
  const uint32_t low = static_cast<uint32_t>(_mm256_extract_epi32(bytes, 0));
  const uint32_t high = static_cast<uint32_t>(_mm256_extract_epi32(bytes, 4));
  const uint64_t code = low | static_cast<uint64_t>(high) << 32;
  __builtin_memcpy(to, &code, static_cast<size_t>(n));
}
inline Bits load_codes(const uint8_t* from, int n) {
  uint64_t code = 0;
  __builtin_memcpy(&code, from, static_cast<size_t>(n));
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(code)));
}
// 2 * kLanes BF16, side by side.
inline Bits load_pairs(const bf16* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline void store_pairs(void* to, Bits pairs) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), pairs);
}
inline Bits larger_halves(Bits a, Bits b) { return _mm256_max_epu16(a, b); }
// c - a b, and a b - c, rounded once.
inline Vec product_less(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline Vec product_above(Vec a, Vec b, Vec c) { return {_mm256_fmsub_ps(a.v, b.v, c.v)}; }

#else

using Bits = uint32_t;
inline Bits bits_of(Vec a) {
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &a.v, sizeof bits);
  return bits;
}
inline Vec vec_of(Bits a) {
  Vec out{};
  __builtin_memcpy(&out.v, &a, sizeof a);
  return out;
}
inline Bits larger(Bits a, Bits b) { return a > b ? a : b; }
inline Bits plus(Bits a, Bits b) { return a + b; }
inline Bits both(Bits a, Bits b) { return a & b; }
inline Bits either(Bits a, Bits b) { return a | b; }
template <int kBits>
inline Bits right(Bits a) {
  return a >> kBits;
}
inline Bits all(uint32_t x) { return x; }
inline Bits where_less(Bits a, Bits b, Bits then, Bits otherwise) {
  return a < b ? then : otherwise;
}
inline uint32_t largest_of(Bits a) { return a; }
inline void store_codes(uint8_t* to, Bits codes, int n) {
  if (n == 1) *to = static_cast<uint8_t>(codes);
}
inline void store_pairs(void* to, Bits pairs) { __builtin_memcpy(to, &pairs, sizeof pairs); }

#endif

constexpr uint32_t kSize = 0x7fffffff, kInfinity = 0x7f800000;
inline Bits size_of_each(Vec x) { return both(bits_of(x), all(kSize)); }

// BF16 of two vectors that hold such numbers: those of the first in the lower halves.
inline Bits joined(Vec first, Vec second) {
  return either(right<16>(bits_of(first)), both(bits_of(second), all(0xffff0000)));
}

// The largest magnitude of some numbers, as bits: not below kInfinity where one is not finite.
inline Bits widest(Bits so_far, const float* x, int64_t count) {
  for_each_vector(
      count, [&](int64_t i, int n) { so_far = larger(so_far, size_of_each(load_n(x + i, n))); });
  return so_far;
}
inline Bits widest(Bits so_far, const bf16* x, int64_t count) {
  int64_t i = 0;
#if !defined(MINKE_TARGET_scalar)
  Bits pairs = all(0);
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    pairs = larger_halves(pairs, both(load_pairs(x + i), all(0x7fff7fff)));
  }
  so_far = larger(so_far, larger(left<16>(pairs), both(pairs, all(0xffff0000))));
#endif
  for_each_vector(count - i, [&](int64_t j, int n) {
    so_far = larger(so_far, size_of_each(load_n(x + i + j, n)));
  });
  return so_far;
}

inline float first_of(Vec x) {
#if defined(MINKE_TARGET_avx512)
  return _mm512_cvtss_f32(x.v);
#elif defined(MINKE_TARGET_avx2)
  return _mm256_cvtss_f32(x.v);
#else
  return x.v;
#endif
}

// Scales of tiles whose largest magnitudes are `top` (as bits): as minke::e4m3_scale, and NaN where
// top is not finite.
inline Vec scales_of(Bits top, bool power_of_two) {
  Vec scale = max(vec_of(top) / splat(448.0F), splat(0x1p-126F));
  if (power_of_two) {
    scale = vec_of(both(plus(bits_of(scale), all(0x7fffff)), all(kInfinity)));
  }
  const Bits number = where_less(top, all(1), bits_of(splat(1.0F)), bits_of(scale));
  return vec_of(where_less(top, all(kInfinity), number, all(0x7fc00000)));
}

// How x / scale comes to be: to the last bit, or so that its code is the quotient's.
enum class Division {
  kInverse,    // of a power of two
  kNear,       // x and the largest number of its tile are BF16, scales near 1: see Quotient
  kCorrected,  // scales near 1: see Quotient
  kPlain,
};
// Of X, for scales within [least, most].
template <typename X>
inline Division division_by(float least, float most, bool power_of_two) {
  if (power_of_two) return Division::kInverse;
  if (least < 0x1p-60F || most > 0x1p60F) return Division::kPlain;
  return sizeof(X) == sizeof(bf16) ? Division::kNear : Division::kCorrected;
}

// Division takes as long as a dozen other operations. The inverse in two parts gives a quotient
// within a unit in the last place, which is the nearest number itself but for one case in millions;
// of two BF16 there are so few that a test goes through all of them. Else its remainder is exact,
// and corrects it to the nearest number, since the first part is the nearest one to the inverse
// (Markstein). Where the remainder is no normal number the quotient is below 2^-10, and its code is
// zero. A zero's sign is lost on the way, so codes take theirs from x.
template <Division kHow>
struct Quotient {
  Vec scale, high, low;
  explicit Quotient(Vec by) : scale(by), high(splat(1.0F) / by), low(zero()) {
#if !defined(MINKE_TARGET_scalar)
    if (kHow == Division::kCorrected || kHow == Division::kNear) {
      low = product_less(high, scale, splat(1.0F)) * high;
    }
#endif
  }
  Quotient(float by, float inverse, float rest)
      : scale(splat(by)), high(splat(inverse)), low(splat(rest)) {}
  Vec operator()(Vec x) const {
#if !defined(MINKE_TARGET_scalar)
    if (kHow == Division::kCorrected || kHow == Division::kNear) {
      const Vec near = fma(x, high, x * low);
      if (kHow == Division::kNear) return near;
      return product_less(product_above(near, scale, x), high, near);
    }
    if (kHow == Division::kInverse) return x * high;
#endif
    return x / scale;
  }
};
// body(a Division as a type)
template <typename Body>
inline void with_division(Division how, Body&& body) {
  switch (how) {
    case Division::kInverse:
      return body(std::integral_constant<Division, Division::kInverse>());
    case Division::kNear:
      return body(std::integral_constant<Division, Division::kNear>());
    case Division::kCorrected:
      return body(std::integral_constant<Division, Division::kCorrected>());
    case Division::kPlain:
      return body(std::integral_constant<Division, Division::kPlain>());
  }
}

#if defined(MINKE_TARGET_scalar)

template <Division kHow>
inline Bits codes_of(const Quotient<kHow>& by, Vec x) {
  return e4m3_encode(by(x).v);
}
// What is not finite has no code; it is not kept.
template <Division kHow>
inline Vec rounded(const Quotient<kHow>& by, Vec x) {
  const float quotient = by(x).v;
  return std::isfinite(quotient) ? Vec{e4m3_decode(e4m3_encode(quotient))} : zero();
}

#else

// The power of two at or below the magnitude of x, and not below the least normal one.
inline Bits binade(Vec x) { return larger(both(bits_of(x), all(kInfinity)), all(121U << 23)); }

// The numbers that the codes of quotients are, these at most a little more than 448: multiples of
// an eighth of their binade, which are the units of a number 2^20 times as large that is added and
// subtracted. (Half as much again keeps negative numbers within its binade.)
template <Division kHow>
inline Vec rounded(const Quotient<kHow>& by, Vec x) {
  const Vec quotient = by(x);
  const Vec large = vec_of(plus(binade(quotient), all(20U << 23 | 0x400000U)));
  const Vec number = (quotient + large) - large;
  return vec_of(either(bits_of(number), both(bits_of(x), all(~kSize))));
}

// The same units as a whole number, and the binade's: 8 codes each.
template <Division kHow>
inline Bits codes_of(const Quotient<kHow>& by, Vec x) {
  const Vec quotient = by(x);
  const Bits power = binade(quotient), large = plus(power, all(20U << 23));
  const Vec sum = vec_of(size_of_each(quotient)) + vec_of(large);
  const Bits code = plus(minus(bits_of(sum), large), minus(right<20>(power), all(121U << 3)));
  return either(code, right<24>(both(bits_of(x), all(~kSize))));
}

#endif

#if defined(MINKE_TARGET_scalar)

inline Vec numbers_of(const uint8_t* code, int) { return {e4m3_decode(*code)}; }

#else

// As widening in ops/kernels/fp8_widen.h, number by number: 2^-120 of it is FP32 by a shift.
inline Vec numbers_of(const uint8_t* codes, int n) {
  const Bits code = load_codes(codes, n);
  const Bits magnitude = both(code, all(0x7f)), sign = left<24>(both(code, all(0x80)));
  const Bits normal = plus(left<20>(magnitude), all(120U << 23));
  const Bits small = bits_of(float_of(magnitude) * splat(0x1p-9F));
  return vec_of(either(where_less(magnitude, all(8), small, normal), sign));
}

#endif

}  // namespace minke::ops::kernels::MINKE_TARGET
