#include "ops/kernels/matmul_pack.h"

#include "ops/kernels/matmul.h"
#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

template <typename X>
inline constexpr int64_t kNumbersPerUnit = kUnitBytes / static_cast<int64_t>(sizeof(X));

#if defined(MINKE_TARGET_scalar)

template <typename To, typename From>
void pack_rows(std::byte* panel, const Matrix& from) {
  constexpr int64_t kNumbers = kNumbersPerUnit<To>;
  auto* to = reinterpret_cast<To*>(panel);
  for (int64_t k = 0; k < (from.cols + kNumbers - 1) / kNumbers * kNumbers; ++k) {
    for (int64_t c = 0; c < kPanel; ++c) {
      const bool inside = c < from.rows && k < from.cols;
      store(to + (k / kNumbers * kPanel + c) * kNumbers + k % kNumbers,
            inside ? load(row_of<From>(from, c) + k) : zero());
    }
  }
}

template <typename To, typename From>
void pack_columns(std::byte* panel, const Matrix& from) {
  constexpr int64_t kNumbers = kNumbersPerUnit<To>;
  auto* to = reinterpret_cast<To*>(panel);
  for (int64_t k = 0; k < (from.rows + kNumbers - 1) / kNumbers * kNumbers; ++k) {
    for (int64_t c = 0; c < kPanel; ++c) {
      const bool inside = c < from.cols && k < from.rows;
      store(to + (k / kNumbers * kPanel + c) * kNumbers + k % kNumbers,
            inside ? load(row_of<From>(from, k) + c) : zero());
    }
  }
}

#else

inline int clamp_lanes(int64_t n) { return static_cast<int>(n < 0 ? 0 : n > kLanes ? kLanes : n); }

#if defined(MINKE_TARGET_avx512)

using Bits = __m512i;
inline Bits widen_codes(__m256i codes) { return _mm512_cvtepu16_epi32(codes); }
inline Bits codes_of(const bf16* p, int n) {
  return widen_codes(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << n) - 1U), p));
}
inline Bits pair(Bits first, Bits second) {
  return _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
}
inline Bits no_bits() { return _mm512_setzero_si512(); }
inline Bits bits_of(Vec v) { return _mm512_castps_si512(v.v); }
inline void store_bits(std::byte* p, Bits bits) { _mm512_storeu_si512(p, bits); }
// 2 * kLanes numbers side by side, of which n are there.
inline Bits load_pairs(const bf16* p, int64_t n) {
  if (n >= 2 * kLanes) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1U << n) - 1U), p);
}
inline Bits load_pairs(const float* p, int64_t n) {
  const __m256i low = to_bf16(load_n(p, clamp_lanes(n)));
  const __m256i high =
      n > kLanes ? to_bf16(load_n(p + kLanes, clamp_lanes(n - kLanes))) : _mm256_setzero_si256();
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// A panel of pairs: numbers of one row beside those of the next. There are n in each.
inline void store_pairs(std::byte* to, const bf16* first, const bf16* second, int64_t n) {
  alignas(64) static constexpr uint16_t kOrder[64] = {
      0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
      11, 43, 12, 44, 13, 45, 14, 46, 15, 47, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53,
      22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  const __m512i a = load_pairs(first, n), b = load_pairs(second, n);
  store_bits(to, _mm512_permutex2var_epi16(a, _mm512_load_si512(kOrder), b));
  store_bits(to + 64, _mm512_permutex2var_epi16(a, _mm512_load_si512(kOrder + 32), b));
}

// x[i] lane j <-> x[j] lane i.
[[gnu::always_inline]] inline void transpose(Bits (&x)[16]) {
  __m512i y[16];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // 2 x 2, then 4 x 4 within each quarter of a register
    const __m512i a = _mm512_unpacklo_epi32(x[4 * i], x[4 * i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(x[4 * i], x[4 * i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(x[4 * i + 2], x[4 * i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(x[4 * i + 2], x[4 * i + 3]);
    y[4 * i] = _mm512_unpacklo_epi64(a, c);
    y[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
    y[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
    y[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // quarters: a 4 x 4 of them
    const __m512i a = _mm512_shuffle_i32x4(y[i], y[4 + i], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(y[i], y[4 + i], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(y[8 + i], y[12 + i], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(y[8 + i], y[12 + i], 0xee);
    x[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    x[4 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
    x[8 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
    x[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

#else

using Bits = __m256i;
inline Bits widen_codes(__m128i codes) { return _mm256_cvtepu16_epi32(codes); }
// The upper halves of n FP32 that were widened from BF16.
inline Bits codes_of(const bf16* p, int n) {
  return _mm256_srli_epi32(_mm256_castps_si256(load_n(p, n).v), 16);
}
inline Bits pair(Bits first, Bits second) {
  return _mm256_or_si256(first, _mm256_slli_epi32(second, 16));
}
inline Bits no_bits() { return _mm256_setzero_si256(); }
inline Bits bits_of(Vec v) { return _mm256_castps_si256(v.v); }
inline void store_bits(std::byte* p, Bits bits) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
}
// 2 * kLanes numbers side by side, of which n are there.
inline Bits load_pairs(const bf16* p, int64_t n) {
  if (n >= 2 * kLanes) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  alignas(32) bf16 copy[2 * kLanes] = {};
  __builtin_memcpy(static_cast<void*>(copy), p, static_cast<size_t>(n) * sizeof(bf16));
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(copy));
}
inline Bits load_pairs(const float* p, int64_t n) {
  const __m128i low = to_bf16(load_n(p, clamp_lanes(n)));
  const __m128i high =
      n > kLanes ? to_bf16(load_n(p + kLanes, clamp_lanes(n - kLanes))) : _mm_setzero_si128();
  return _mm256_set_m128i(high, low);
}

// x[i] lane j <-> x[j] lane i.
[[gnu::always_inline]] inline void transpose(Bits (&x)[8]) {
  __m256i y[8];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {  // 4 x 4 within each half of a register
    const __m256i a = _mm256_unpacklo_epi32(x[4 * i], x[4 * i + 1]);
    const __m256i b = _mm256_unpackhi_epi32(x[4 * i], x[4 * i + 1]);
    const __m256i c = _mm256_unpacklo_epi32(x[4 * i + 2], x[4 * i + 3]);
    const __m256i d = _mm256_unpackhi_epi32(x[4 * i + 2], x[4 * i + 3]);
    y[4 * i] = _mm256_unpacklo_epi64(a, c);
    y[4 * i + 1] = _mm256_unpackhi_epi64(a, c);
    y[4 * i + 2] = _mm256_unpacklo_epi64(b, d);
    y[4 * i + 3] = _mm256_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // halves
    x[i] = _mm256_permute2x128_si256(y[i], y[4 + i], 0x20);
    x[4 + i] = _mm256_permute2x128_si256(y[i], y[4 + i], 0x31);
  }
}

#endif

inline Bits codes_of(const float* p, int n) { return widen_codes(to_bf16(load_n(p, n))); }

// kLanes units of a row, of which n numbers are there.
template <typename To, typename From>
inline Bits load_units(const From* p, int64_t n) {
  if constexpr (sizeof(To) == sizeof(float)) {
    return bits_of(load_n(p, clamp_lanes(n)));
  } else {
    return load_pairs(p, n);
  }
}

template <typename To, typename From>
void pack_rows(std::byte* panel, const Matrix& from) {
  constexpr int64_t kStep = kLanes * kNumbersPerUnit<To>;
  for (int64_t k = 0; k < from.cols; k += kStep) {
    const int64_t numbers = from.cols - k < kStep ? from.cols - k : kStep;
    const int64_t units = (numbers + kNumbersPerUnit<To> - 1) / kNumbersPerUnit<To>;
    for (int64_t c = 0; c < kPanel; c += kLanes) {
      Bits x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        x[i] =
            c + i < from.rows ? load_units<To>(row_of<From>(from, c + i) + k, numbers) : no_bits();
      }
      transpose(x);
      std::byte* to = panel + (k / kNumbersPerUnit<To> * kPanel + c) * kUnitBytes;
      if (units == kLanes) {
#pragma GCC unroll 16
        for (int u = 0; u < kLanes; ++u) store_bits(to + u * kPanel * kUnitBytes, x[u]);
      } else {
        for (int64_t u = 0; u < units; ++u) store_bits(to + u * kPanel * kUnitBytes, x[u]);
      }
    }
  }
}

template <typename To, typename From>
void pack_columns(std::byte* panel, const Matrix& from) {
  for (int64_t k = 0; k < from.rows; k += kNumbersPerUnit<To>, panel += kPanel * kUnitBytes) {
    const From* first = row_of<From>(from, k);
#if defined(MINKE_TARGET_avx512)
    if constexpr (sizeof(To) == sizeof(bf16) && sizeof(From) == sizeof(bf16)) {
      if (k + 1 < from.rows) {
        store_pairs(panel, first, first + from.stride, from.cols);
        continue;
      }
    }
#endif
    for (int64_t c = 0; c < kPanel; c += kLanes) {
      const int n = clamp_lanes(from.cols - c);
      Bits unit = no_bits();
      if constexpr (sizeof(To) == sizeof(float)) {
        if (n > 0) unit = bits_of(load_n(first + c, n));
      } else if (n > 0) {
        const bool whole = k + 1 < from.rows;
        unit =
            pair(codes_of(first + c, n), whole ? codes_of(first + from.stride + c, n) : no_bits());
      }
      store_bits(panel + c * kUnitBytes, unit);
    }
  }
}

#endif

}  // namespace

const PackKernels& pack_kernels() {
  static constexpr PackKernels kTable{{{pack_rows<float, float>, pack_rows<float, bf16>},
                                       {pack_rows<bf16, float>, pack_rows<bf16, bf16>}},
                                      {{pack_columns<float, float>, pack_columns<float, bf16>},
                                       {pack_columns<bf16, float>, pack_columns<bf16, bf16>}}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
