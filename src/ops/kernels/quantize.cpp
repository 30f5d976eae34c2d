#include "ops/kernels/quantize.h"

#include "ops/kernels/fp8_unit.h"
#include "ops/kernels/matmul.h"
#include "ops/kernels/matmul_fp8.h"
#include "ops/kernels/simd.h"
#include "tensor/scales.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

#if defined(MINKE_TARGET_avx512)

using Bits = __m512i;
inline Bits bits_of(Vec a) { return _mm512_castps_si512(a.v); }
inline Vec vec_of(Bits a) { return {_mm512_castsi512_ps(a)}; }
inline Bits all(uint32_t x) { return _mm512_set1_epi32(static_cast<int32_t>(x)); }
inline Bits larger(Bits a, Bits b) { return _mm512_max_epu32(a, b); }
inline Bits smaller(Bits a, Bits b) { return _mm512_min_epu32(a, b); }
inline Bits plus(Bits a, Bits b) { return _mm512_add_epi32(a, b); }
inline Bits both(Bits a, Bits b) { return _mm512_and_si512(a, b); }
inline Bits either(Bits a, Bits b) { return _mm512_or_si512(a, b); }
template <int kBits>
inline Bits right(Bits a) {
  return _mm512_srli_epi32(a, kBits);
}
inline Bits where_less(Bits a, Bits b, Bits then, Bits otherwise) {
  return _mm512_mask_blend_epi32(_mm512_cmplt_epu32_mask(a, b), otherwise, then);
}
inline Bits nearest(Vec a) { return _mm512_cvtps_epi32(a.v); }
inline Vec float_of(Bits a) { return {_mm512_cvtepi32_ps(a)}; }
inline uint32_t largest_of(Bits a) { return _mm512_reduce_max_epu32(a); }
inline void store_codes(uint8_t* to, Bits codes, int n) {
  _mm_mask_storeu_epi8(to, static_cast<__mmask16>((1U << n) - 1U), _mm512_cvtepi32_epi8(codes));
}
inline Bits load_codes(const uint8_t* from, int n) {
  return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(static_cast<__mmask16>((1U << n) - 1U), from));
}
inline Bits left(Bits a, int bits) { return _mm512_slli_epi32(a, static_cast<unsigned>(bits)); }

#elif defined(MINKE_TARGET_avx2)

using Bits = __m256i;
inline Bits bits_of(Vec a) { return _mm256_castps_si256(a.v); }
inline Vec vec_of(Bits a) { return {_mm256_castsi256_ps(a)}; }
inline Bits all(uint32_t x) { return _mm256_set1_epi32(static_cast<int32_t>(x)); }
inline Bits larger(Bits a, Bits b) { return _mm256_max_epu32(a, b); }
inline Bits smaller(Bits a, Bits b) { return _mm256_min_epu32(a, b); }
inline Bits plus(Bits a, Bits b) { return _mm256_add_epi32(a, b); }
inline Bits both(Bits a, Bits b) { return _mm256_and_si256(a, b); }
inline Bits either(Bits a, Bits b) { return _mm256_or_si256(a, b); }
template <int kBits>
inline Bits right(Bits a) {
  return _mm256_srli_epi32(a, kBits);
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
inline Bits left(Bits a, int bits) { return _mm256_slli_epi32(a, bits); }

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
inline Bits both(Bits a, Bits b) { return a & b; }
inline Bits all(uint32_t x) { return x; }
inline uint32_t largest_of(Bits a) { return a; }
inline void store_codes(uint8_t* to, Bits codes, int n) {
  if (n == 1) *to = static_cast<uint8_t>(codes);
}

#endif

constexpr uint32_t kSize = 0x7fffffff, kInfinity = 0x7f800000;

// A number's E4M3: its code, and what the code is.
struct Rounded {
  Bits code;
  Vec number;
};

#if defined(MINKE_TARGET_scalar)

inline Rounded rounded(Vec x) {
  const uint8_t code = e4m3_encode(x.v);
  return {code, {e4m3_decode(code)}};
}

#else

// Numbers at and above 2^-6 lose 20 bits, to nearest even; those below are multiples of 2^-9.
inline Rounded rounded(Vec x) {
  const Bits sign = both(bits_of(x), all(~kSize));
  const Vec magnitude = min(vec_of(both(bits_of(x), all(kSize))), splat(448.0F));
  const Bits size = bits_of(magnitude), normal = all(0x3c800000);
  const Bits odd = both(right<20>(size), all(1));
  const Bits carried = plus(size, plus(odd, all(0x7ffff)));
  const Bits steps = nearest(magnitude * splat(512.0F));
  constexpr uint32_t kBias = 120U << 3;
  const Bits code = where_less(size, normal, steps, plus(right<20>(carried), all(0U - kBias)));
  const Bits number = where_less(size, normal, bits_of(float_of(steps) * splat(0x1p-9F)),
                                 both(carried, all(~0xfffffU)));
  return {either(code, right<24>(sign)), vec_of(either(number, sign))};
}

#endif

// As minke::e4m3_scale.
inline float scale_of(float amax, bool power_of_two) {
  if (amax == 0) return 1;
  float scale = amax / 448.0F;
  if (scale < 0x1p-126F) scale = 0x1p-126F;
  if (!power_of_two) return scale;
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &scale, sizeof bits);
  bits = (bits + 0x7fffffU) & kInfinity;
  __builtin_memcpy(&scale, &bits, sizeof bits);
  return scale;
}

// The largest magnitude of n numbers, as bits: not below kInfinity where one is not finite.
template <typename X>
inline Bits widest(Bits so_far, const X* x, int64_t count) {
  for_each_vector(count, [&](int64_t i, int n) {
    so_far = larger(so_far, both(bits_of(load_n(x + i, n)), all(kSize)));
  });
  return so_far;
}

inline float float_from(uint32_t bits) {
  float x = 0;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// Division by a power of two is exact by its inverse, too.
struct Divisor {
  Vec by;
  bool inverse;
  Divisor(float scale, bool power_of_two)
      : by(splat(power_of_two ? 1.0F / scale : scale)), inverse(power_of_two) {}
  Vec operator()(Vec x) const { return inverse ? x * by : x / by; }
};

template <typename X>
bool quantize_rows(const QuantizeRows& q, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const X* x = row_of<X>(q.x, r);
    auto* codes = q.codes.data != nullptr ? row_of<uint8_t>(q.codes, r) : nullptr;
    auto* numbers = q.numbers.data != nullptr ? row_of<bf16>(q.numbers, r) : nullptr;
    for (int64_t c = 0; c < q.x.cols; c += kScaleBlock) {
      const int64_t count = least(q.x.cols - c, kScaleBlock);
      const uint32_t top = largest_of(widest(all(0), x + c, count));
      if (top >= kInfinity) return false;
      const float scale = scale_of(float_from(top), q.power_of_two);
      q.scale[r * q.scale_stride + c / kScaleBlock] = scale;
      const Divisor divided(scale, q.power_of_two);
      for_each_vector(count, [&](int64_t i, int n) {
        const Rounded y = rounded(divided(load_n(x + c + i, n)));
        if (codes != nullptr) store_codes(codes + c + i, y.code, n);
        if (numbers != nullptr) store_n(numbers + c + i, y.number, n);
      });
    }
  }
  return true;
}

template <typename X>
bool quantize_block(const Matrix& codes, float* scale, const Matrix& x, bool power_of_two) {
  Bits widest_of_rows = all(0);
  for (int64_t r = 0; r < x.rows; ++r) {
    widest_of_rows = widest(widest_of_rows, row_of<X>(x, r), x.cols);
  }
  const uint32_t top = largest_of(widest_of_rows);
  if (top >= kInfinity) return false;
  *scale = scale_of(float_from(top), power_of_two);
  const Divisor divided(*scale, power_of_two);
  for (int64_t r = 0; r < x.rows; ++r) {
    const X* from = row_of<X>(x, r);
    auto* to = row_of<uint8_t>(codes, r);
    for_each_vector(x.cols, [&](int64_t i, int n) {
      store_codes(to + i, rounded(divided(load_n(from + i, n))).code, n);
    });
  }
  return true;
}

#if defined(MINKE_TARGET_scalar)

inline float number_of(const uint8_t* code) { return e4m3_decode(*code); }

#else

// As widening in ops/kernels/matmul_fp8.cpp, number by number: 2^-120 of it is FP32 by a shift.
inline Vec numbers_of(const uint8_t* codes, int n) {
  const Bits code = load_codes(codes, n);
  const Bits magnitude = both(code, all(0x7f)), sign = left(both(code, all(0x80)), 24);
  const Bits normal = plus(left(magnitude, 20), all(120U << 23));
  const Bits small = bits_of(float_of(magnitude) * splat(0x1p-9F));
  return vec_of(either(where_less(magnitude, all(8), small, normal), sign));
}

#endif

// n numbers of a row in FP32.
template <typename X>
inline void load_row(float* to, const QuantizeColumns& q, int64_t r) {
  if constexpr (sizeof(X) == 1) {
    const auto* from = row_of<uint8_t>(q.x, r);
    const float scale = q.row_scale[r * q.row_scale_stride];
#if defined(MINKE_TARGET_scalar)
    for (int64_t i = 0; i < q.x.cols; ++i) to[i] = number_of(from + i) * scale;
#else
    for_each_vector(q.x.cols, [&](int64_t i, int n) {
      store_n(to + i, numbers_of(from + i, n) * splat(scale), n);
    });
#endif
  } else {
    const X* from = row_of<X>(q.x, r);
    for_each_vector(q.x.cols, [&](int64_t i, int n) { store_n(to + i, load_n(from + i, n), n); });
  }
}

// A pair of rows of a panel: numbers in BF16, columns side by side.
inline void put_numbers(std::byte* unit, const Vec (&first)[kPanel / kLanes],
                        const Vec (&second)[kPanel / kLanes]) {
  for (int v = 0; v < kPanel / kLanes; ++v) {
    auto* to = reinterpret_cast<uint32_t*>(unit) + v * kLanes;
#if defined(MINKE_TARGET_scalar)
    *to = bits_of(first[v]) >> 16 | (bits_of(second[v]) & 0xffff0000U);
#else
    const Bits pairs =
        either(right<16>(bits_of(first[v])), both(bits_of(second[v]), all(0xffff0000)));
    store(reinterpret_cast<float*>(to), vec_of(pairs));
#endif
  }
}

template <bool kCodes, typename X>
bool quantize_columns(const QuantizeColumns& q) {
  constexpr int kVectors = static_cast<int>(kPanel) / kLanes;
  alignas(64) float x[kScaleBlock * kPanel] = {}, scales[kPanel];
  Bits top[kVectors];
  for (Bits& t : top) t = all(0);
  for (int64_t r = 0; r < q.x.rows; ++r) {
    float* row = x + r * kPanel;
    load_row<X>(row, q, r);
    for (int v = 0; v < kVectors; ++v) {
      top[v] = larger(top[v], both(bits_of(load(row + v * kLanes)), all(kSize)));
    }
  }
  for (int v = 0; v < kVectors; ++v) store(scales + v * kLanes, vec_of(top[v]));
  for (int64_t c = 0; c < kPanel; ++c) {
    uint32_t bits = 0;
    __builtin_memcpy(&bits, scales + c, sizeof bits);
    if (bits >= kInfinity) return false;
    scales[c] = scale_of(scales[c], q.power_of_two);
    if (c < q.x.cols) q.scale[c] = scales[c];
  }
  std::byte* to = q.panel;
  for (int64_t r = 0; r < q.x.rows; r += 2) {
    const float* row = x + r * kPanel;  // the row beyond an odd end is zero
    if constexpr (kCodes) {
      alignas(64) uint8_t code[2 * kPanel];
      for (int64_t i = 0; i < 2; ++i) {
        for (int v = 0; v < kVectors; ++v) {
          const int64_t c = v * kLanes;
          store_codes(code + i * kPanel + c,
                      rounded(load(row + i * kPanel + c) / load(scales + c)).code, kLanes);
        }
      }
      store_unit(to, code, code + kPanel);
      to += kFp8UnitBytes;
    } else {
      Vec number[2][kVectors];
      for (int64_t i = 0; i < 2; ++i) {
        for (int v = 0; v < kVectors; ++v) {
          const int64_t c = v * kLanes;
          number[i][v] = rounded(load(row + i * kPanel + c) / load(scales + c)).number;
        }
      }
      put_numbers(to, number[0], number[1]);
      to += kPanel * kUnitBytes;
    }
  }
  return true;
}

template <typename X>
void dequantize(const Matrix& x, const Matrix& codes, const float* scale, int64_t scale_stride,
                int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const auto* from = row_of<uint8_t>(codes, r);
    X* to = row_of<X>(x, r);
    for (int64_t c = 0; c < x.cols; c += kScaleBlock) {
      const float s = scale[r * scale_stride + c / kScaleBlock];
      const int64_t count = least(x.cols - c, kScaleBlock);
#if defined(MINKE_TARGET_scalar)
      for (int64_t i = c; i < c + count; ++i) store(to + i, {number_of(from + i) * s});
#else
      for_each_vector(count, [&](int64_t i, int n) {
        store_n(to + c + i, numbers_of(from + c + i, n) * splat(s), n);
      });
#endif
    }
  }
}

// The scale is a power of two, so numbers at and above 2^-14 of it lose 17 bits whatever it is;
// those below are multiples of 2^-20 of it.
bool round_e5m6(const Matrix& x, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    bf16* row = row_of<bf16>(x, r);
    for (int64_t c = 0; c < x.cols; c += kScaleBlock) {
      const int64_t count = least(x.cols - c, kScaleBlock);
      const uint32_t top = largest_of(widest(all(0), row + c, count));
      if (top >= kInfinity) return false;
      const float scale = e5m6_scale(float_from(top));
#if defined(MINKE_TARGET_scalar)
      for (int64_t i = c; i < c + count; ++i) {
        store(row + i, {e5m6_decode(e5m6_encode(load(row + i).v / scale)) * scale});
      }
#else
      const Vec step = splat(scale * 0x1p-20F);
      const Bits normal = bits_of(splat(scale * 0x1p-14F));
      for_each_vector(count, [&](int64_t i, int n) {
        const Bits bits = bits_of(load_n(row + c + i, n));
        const Bits sign = both(bits, all(~kSize)), size = both(bits, all(kSize));
        const Bits odd = both(right<17>(size), all(1));
        const Bits carried = both(plus(size, plus(odd, all(0xffff))), all(~0x1ffffU));
        const Bits small = bits_of(float_of(nearest(vec_of(size) / step)) * step);
        store_n(row + c + i, vec_of(either(where_less(size, normal, small, carried), sign)), n);
      });
#endif
    }
  }
  return true;
}

}  // namespace

const QuantizeKernels& quantize_kernels() {
  static constexpr QuantizeKernels kTable{
      {quantize_rows<float>, quantize_rows<bf16>},
      {quantize_block<float>, quantize_block<bf16>},
      {quantize_columns<false, float>, quantize_columns<false, bf16>,
       quantize_columns<false, uint8_t>},
      {quantize_columns<true, float>, quantize_columns<true, bf16>,
       quantize_columns<true, uint8_t>},
      {dequantize<float>, dequantize<bf16>},
      round_e5m6};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
