// A unit of codes from two rows, in the order of ops/kernels/matmul_fp8.h. To be included by files
// of ops/kernels only: everything lives in the namespace of the set (MINKE_TARGET).
#pragma once

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {

// Where a column's pair lies in a unit.
inline int64_t slot(int64_t column) { return column % 16 / 4 * 8 + column / 16 * 4 + column % 4; }

// Codes of 32 columns of each row become pairs.
inline void store_unit(std::byte* to, const uint8_t* first, const uint8_t* second) {
#if defined(MINKE_TARGET_scalar)
  auto* unit = reinterpret_cast<uint8_t*>(to);
  for (int c = 0; c < 32; ++c) {
    unit[2 * slot(c)] = first[c];
    unit[2 * slot(c) + 1] = second[c];
  }
#else
  const auto load_16 = [](const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  };
  const __m128i a = load_16(first), b = load_16(second);
  const __m128i c = load_16(first + 16), d = load_16(second + 16);
  const __m128i low[2] = {_mm_unpacklo_epi8(a, b), _mm_unpacklo_epi8(c, d)};
  const __m128i high[2] = {_mm_unpackhi_epi8(a, b), _mm_unpackhi_epi8(c, d)};
  auto* unit = reinterpret_cast<__m128i*>(to);
  _mm_storeu_si128(unit, _mm_unpacklo_epi64(low[0], low[1]));
  _mm_storeu_si128(unit + 1, _mm_unpackhi_epi64(low[0], low[1]));
  _mm_storeu_si128(unit + 2, _mm_unpacklo_epi64(high[0], high[1]));
  _mm_storeu_si128(unit + 3, _mm_unpackhi_epi64(high[0], high[1]));
#endif
}

}  // namespace minke::ops::kernels::MINKE_TARGET
