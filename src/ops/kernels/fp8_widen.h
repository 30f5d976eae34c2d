// Codes of E4M3 to the numbers that they are, in BF16 or FP32, all of them exactly: how the kernels
// of ops/kernels/matmul_fp8.h read their right operand. To be included by files of ops/kernels
// only: everything lives in the namespace of the set (MINKE_TARGET).
#pragma once

#include "ops/kernels/matmul.h"
#include "ops/kernels/matmul_fp8.h"
#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {

#if !defined(MINKE_TARGET_scalar)

// A unit of codes as pairs of BF16, or a number of each pair as FP32.
constexpr int64_t kWideUnitBytes = kPanel * kUnitBytes;

#if defined(MINKE_TARGET_avx512)

// The bytes of the BF16 that is each code's magnitude.
struct Magnitudes {
  alignas(64) uint8_t high[128], low[128];
  Magnitudes() : high(), low() {
    for (int code = 0; code < 128; ++code) {
      const float value = e4m3_decode(static_cast<uint8_t>(code));
      uint32_t bits = 0;
      __builtin_memcpy(&bits, &value, sizeof bits);
      high[code] = static_cast<uint8_t>(bits >> 24);
      low[code] = static_cast<uint8_t>(bits >> 16);
    }
  }
};
inline const Magnitudes& magnitudes() {
  static const Magnitudes table;
  return table;
}

// Looks up 7 bits of every code, and puts its sign beside what it found.
struct Widener {
  __m512i high[2], low[2], sign = _mm512_set1_epi8(-128);
  [[gnu::always_inline]] explicit Widener(const Magnitudes& table) {
    for (int i = 0; i < 2; ++i) {
      high[i] = _mm512_load_si512(table.high + 64 * i);
      low[i] = _mm512_load_si512(table.low + 64 * i);
    }
  }
  // A unit of codes to pairs of BF16 of columns 0 to 15, and 16 to 31.
  [[gnu::always_inline]] inline void widen(__m512i (&pairs)[2], const std::byte* unit) const {
    const __m512i codes = _mm512_loadu_si512(unit);
    constexpr int kFirstOrSecondAndThird = 0xf8;
    const __m512i upper = _mm512_ternarylogic_epi32(
        _mm512_permutex2var_epi8(high[0], codes, high[1]), codes, sign, kFirstOrSecondAndThird);
    const __m512i lower = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    pairs[0] = _mm512_unpacklo_epi8(lower, upper);
    pairs[1] = _mm512_unpackhi_epi8(lower, upper);
  }
};

// Not inlined: GCC 12 would keep its pointers in a vector.
[[gnu::noinline]] inline void widen_units(bf16*, std::byte* to, const std::byte* codes,
                                          int64_t units) {
  const Widener widener(magnitudes());
  for (int64_t u = 0; u < units; ++u, codes += kFp8UnitBytes, to += kWideUnitBytes) {
    __m512i pairs[2];
    widener.widen(pairs, codes);
    _mm512_store_si512(to, pairs[0]);
    _mm512_store_si512(to + 64, pairs[1]);
  }
}

// Not inlined: GCC 12 would keep its pointers in a vector.
[[gnu::noinline]] inline void widen_units(float*, std::byte* to, const std::byte* codes,
                                          int64_t units) {
  const Widener widener(magnitudes());
  for (int64_t u = 0; u < units; ++u, codes += kFp8UnitBytes, to += 2 * kWideUnitBytes) {
    __m512i pairs[2];
    widener.widen(pairs, codes);
    for (int i = 0; i < 2; ++i) {
      _mm512_store_si512(to + 64 * i, _mm512_slli_epi32(pairs[i], 16));
      _mm512_store_si512(to + kWideUnitBytes + 64 * i,
                         _mm512_and_si512(pairs[i], _mm512_set1_epi32(~0xffff)));
    }
  }
}
#else

// Codes to FP16 by a shift, which is 2^-8 of the number, and exact; then to FP32.
// Not inlined: GCC 12 would keep its pointers in a vector.
[[gnu::noinline]] inline void widen_units(float*, std::byte* to, const std::byte* codes,
                                          int64_t units) {
  // The first codes of 4 pairs, then the second ones, each as the upper byte of a word.
  constexpr int8_t kNone = -1;
  const __m256i order[2] = {
      _mm256_setr_epi8(kNone, 0, kNone, 2, kNone, 4, kNone, 6, kNone, 1, kNone, 3, kNone, 5, kNone,
                       7, kNone, 0, kNone, 2, kNone, 4, kNone, 6, kNone, 1, kNone, 3, kNone, 5,
                       kNone, 7),
      _mm256_setr_epi8(kNone, 8, kNone, 10, kNone, 12, kNone, 14, kNone, 9, kNone, 11, kNone, 13,
                       kNone, 15, kNone, 8, kNone, 10, kNone, 12, kNone, 14, kNone, 9, kNone, 11,
                       kNone, 13, kNone, 15)};
  const __m256i magnitude = _mm256_set1_epi16(0x3f80), sign = _mm256_set1_epi16(-0x8000);
  float* out = reinterpret_cast<float*>(to);
  for (int64_t u = 0; u < units; ++u, codes += kFp8UnitBytes, out += 2 * kPanel) {
    for (int half = 0; half < 2; ++half) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * half));
      for (int i = 0; i < 2; ++i) {
        const __m256i words = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(bytes, order[i]), 0xd8);
        const __m256i size = _mm256_and_si256(_mm256_srli_epi16(words, 1), magnitude);
        const __m256i nan = _mm256_srli_epi16(_mm256_cmpeq_epi16(size, magnitude), 1);
        const __m256i fp16 =
            _mm256_or_si256(_mm256_or_si256(size, nan), _mm256_and_si256(words, sign));
        const Vec first{_mm256_cvtph_ps(_mm256_castsi256_si128(fp16))};
        const Vec second{_mm256_cvtph_ps(_mm256_extracti128_si256(fp16, 1))};
        store(out + 16 * i + 8 * half, first * splat(256.0F));
        store(out + kPanel + 16 * i + 8 * half, second * splat(256.0F));
      }
    }
  }
}

// Pairs of BF16, to the same.
inline void widen_pairs(float* to, const std::byte* pairs, int64_t units) {
  for (int64_t u = 0; u < units; ++u, to += 2 * kPanel, pairs += kWideUnitBytes) {
    for (int64_t c = 0; c < kPanel; c += kLanes) {
      const __m256i both =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs + c * kUnitBytes));
      store(to + c, {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16))});
      store(to + kPanel + c,
            {_mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(~0xffff)))});
    }
  }
}

#endif

#endif

}  // namespace minke::ops::kernels::MINKE_TARGET
