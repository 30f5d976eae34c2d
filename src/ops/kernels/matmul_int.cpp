#include "ops/kernels/matmul_int.h"

#include <utility>

#include "ops/kernels/matmul.h"
#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// What the two formats of the right side are. kOffset: added to every code.
template <int kBits>
struct Format {
  static constexpr int64_t kNumbers = kBits == 8 ? kIntSum : kIntSums;  // that share a scale
  static constexpr int64_t kParts = kIntSum / kNumbers;                 // of a tile
  static constexpr int64_t kUnitBytes = kBits == 8 ? 128 : 64, kScaleBytes = 64;
  static constexpr int64_t kPartBytes = kScaleBytes + kNumbers / 4 * kUnitBytes;
  static constexpr int64_t kTileBytes = kParts * kPartBytes;
  static constexpr int32_t kOffset = kBits == 8 ? 128 : 8;
  static constexpr int64_t kOffsetPlace =
      kBits == 8 ? offsetof(IntTile, offset_of_8) : offsetof(IntTile, offset_of_4);
};

#if defined(MINKE_TARGET_scalar)

template <int kBits>
int code_at(const std::byte* unit, int64_t column, int64_t i) {
  if (kBits == 8) return static_cast<int>(unit[4 * column + i]) - 128;
  const int byte = static_cast<int>(unit[4 * (column % 16) + i]);
  return (column < 16 ? byte & 0xf : byte >> 4) - 8;
}

template <int kBits, typename Out>
void block(const IntBlock& b) {
  using F = Format<kBits>;
  const int64_t tiles = int_sums(b.k);
  for (int64_t c = 0; c < b.cols; ++c) {
    const std::byte* panel = b.right + c / kPanel * tiles * F::kTileBytes;
    for (int64_t r = 0; r < b.rows; ++r) {
      const auto* left = reinterpret_cast<const IntTile*>(b.left + r * b.left_stride);
      float total = 0;
      for (int64_t g = 0; g < tiles; ++g) {
        float scaled = 0;
        for (int64_t part = 0; part < F::kParts; ++part) {
          const std::byte* at = panel + g * F::kTileBytes + part * F::kPartBytes;
          int32_t sum = 0;
          for (int64_t i = 0; i < F::kNumbers; ++i) {
            sum += left[g].codes[part * F::kNumbers + i] *
                   code_at<kBits>(at + F::kScaleBytes + i / 4 * F::kUnitBytes, c % kPanel, i % 4);
          }
          const float scale = load(reinterpret_cast<const bf16*>(at) + c % kPanel).v;
          scaled += static_cast<float>(sum) * scale;
        }
        total += scaled * left[g].scale;
      }
      Out* out = static_cast<Out*>(b.out) + r * b.out_stride + c;
      store(out, {b.accumulate ? load(out).v + total : total});
    }
  }
}

#else

#if defined(MINKE_TARGET_avx512)

using Ints = __m512i;
constexpr int kTileRows = 6;
inline Vec to_float(Ints a) { return {_mm512_cvtepi32_ps(a)}; }
inline Ints load_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
inline Ints lower_halves(Ints a) { return _mm512_and_si512(a, _mm512_set1_epi8(0xf)); }
inline Ints upper_halves(Ints a) { return lower_halves(_mm512_srli_epi16(a, 4)); }
// Codes have their offset, whose part of the sum is taken off before.
template <int kBits>
inline Ints as_factor(Ints codes) {
  return codes;
}
inline Ints first_sum(int32_t offset) { return _mm512_set1_epi32(offset); }
inline Ints add_products(Ints sum, Ints codes, int32_t four) {
  sum = _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(four));
  // GCC 12 would move the sum from one register to another each time.
  asm("" : "+v"(sum));
  return sum;
}

#else

using Ints = __m256i;
constexpr int kTileRows = 4;
inline Vec to_float(Ints a) { return {_mm256_cvtepi32_ps(a)}; }
inline Ints load_bytes(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline Ints lower_halves(Ints a) { return _mm256_and_si256(a, _mm256_set1_epi8(0xf)); }
inline Ints upper_halves(Ints a) { return lower_halves(_mm256_srli_epi16(a, 4)); }
template <int kBits>
inline Ints as_factor(Ints codes) {
  return _mm256_sub_epi8(codes, _mm256_set1_epi8(static_cast<char>(Format<kBits>::kOffset)));
}
inline Ints first_sum(int32_t) { return _mm256_setzero_si256(); }
// The sign goes from one factor to the other, which has no -128. Two products are at most
// 2 * 128 * 127 < 2^15.
inline Ints add_products(Ints sum, Ints codes, int32_t four) {
  const Ints signs = _mm256_sign_epi8(_mm256_set1_epi32(four), codes);
  const Ints pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), signs);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#endif

// Some rows by two vectors of columns of a panel, over all of the sum.
struct Tile {
  const std::byte* left;
  int64_t left_stride, count;  // of IntTiles
  const std::byte* right;      // the panel
  int64_t column;              // of it, the first
  const std::byte* ahead;      // what to fetch meanwhile: so many bytes with every unit
  int64_t ahead_bytes;
  float* totals;  // [rows, 2 * kLanes]
};

template <typename T>
inline T read(const std::byte* p) {
  T out;
  __builtin_memcpy(&out, p, sizeof out);
  return out;
}

// Two vectors of codes of a unit.
template <int kBits>
[[gnu::always_inline]] inline void load_unit(Ints (&w)[2], const std::byte* unit, int64_t column) {
  for (int v = 0; v < 2; ++v) {
    const int64_t c = column + v * kLanes;
    if (kBits == 8) {
      w[v] = load_bytes(unit + c * 4);
    } else {
      const Ints both = load_bytes(unit + c % 16 * 4);
      w[v] = c < 16 ? lower_halves(both) : upper_halves(both);
    }
    w[v] = as_factor<kBits>(w[v]);
  }
}

// Sums are in registers; what they become, in memory.
template <int kBits, int kRows>
void tile(const Tile& t) {
  using F = Format<kBits>;
  constexpr int64_t kCacheLine = 64;
  alignas(64) float scaled[kRows * 2 * kLanes];
  const int64_t stride = t.left_stride, column = t.column;
  const std::byte *left = t.left, *right = t.right, *ahead = t.ahead;
  float* totals = t.totals;
  for (int64_t i = 0; i < kRows * 2 * kLanes; i += kLanes) store(totals + i, zero());
  for (int64_t g = 0; g < t.count; ++g, left += sizeof(IntTile)) {
    for (int64_t part = 0; part < F::kParts; ++part, right += F::kPartBytes) {
      const std::byte* offsets = left + F::kOffsetPlace + part * 4;
      Ints sum[kRows][2];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < 2; ++v) sum[r][v] = first_sum(read<int32_t>(offsets + r * stride));
      }
      const std::byte *unit = right + F::kScaleBytes,
                      *codes = left + offsetof(IntTile, codes) + part * F::kNumbers;
      for (int64_t u = 0; u < F::kNumbers / 4; ++u, unit += F::kUnitBytes, codes += 4) {
        for (int64_t at = 0; at < F::kUnitBytes; at += kCacheLine) __builtin_prefetch(ahead + at);
        ahead += t.ahead_bytes;
        Ints w[2];
        load_unit<kBits>(w, unit, column);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const auto four = read<int32_t>(codes + r * stride);
          for (int v = 0; v < 2; ++v) sum[r][v] = add_products(sum[r][v], w[v], four);
        }
      }
      const auto* scales = reinterpret_cast<const bf16*>(right) + column;
      const Vec scale[2] = {load(scales), load(scales + kLanes)};
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < 2; ++v) {
          float* to = scaled + (2 * r + v) * kLanes;
          const Vec before = part == 0 ? zero() : load(to);
          store(to, fma(to_float(sum[r][v]), scale[v], before));
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec scale = splat(read<float>(left + r * stride));
      for (int v = 0; v < 2; ++v) {
        const int64_t at = (2 * r + v) * kLanes;
        store(totals + at, fma(load(scaled + at), scale, load(totals + at)));
      }
    }
  }
}

template <int kBits, int... kRowsLessOne>
void run_tile(const Tile& t, int64_t rows, std::integer_sequence<int, kRowsLessOne...>) {
  static constexpr void (*kTiles[])(const Tile&) = {tile<kBits, kRowsLessOne + 1>...};
  kTiles[rows - 1](t);
}

template <typename Out>
void finish(const IntBlock& b, const float* totals, int64_t row, int64_t rows, int64_t column) {
  for (int64_t r = 0; r < rows; ++r, totals += 2 * kLanes) {
    Out* out = static_cast<Out*>(b.out) + (row + r) * b.out_stride + column;
    for_each_vector(least(2 * kLanes, b.cols - column), [&](int64_t c, int n) {
      const Vec total = load(totals + c);
      store_n(out + c, b.accumulate ? load_n(out + c, n) + total : total, n);
    });
  }
}

// A panel stays in a core's second cache while the rows pass by, in tiles of even height. Where
// there is one, it reads from memory, and bytes are asked for so far ahead, further than processors
// do by themselves; else each of the first tiles asks for its share of the next panel.
template <int kBits, typename Out>
void block(const IntBlock& b) {
  using F = Format<kBits>;
  constexpr int64_t kAhead = 8192, kShares = 8;
  alignas(64) float totals[kTileRows * 2 * kLanes];
  Tile t{};
  t.left_stride = b.left_stride;
  t.count = int_sums(b.k);
  t.totals = totals;
  const int64_t panel_bytes = t.count * F::kTileBytes;
  const int64_t tiles = (b.rows + kTileRows - 1) / kTileRows, shares = least(tiles, kShares);
  for (int64_t c = 0; c < b.cols; c += kPanel) {
    t.right = b.right + c / kPanel * panel_bytes;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t begin = b.rows * i / tiles, end = b.rows * (i + 1) / tiles;
      t.left = b.left + begin * b.left_stride;
      t.ahead = t.right + (tiles == 1 ? kAhead : panel_bytes + panel_bytes * i / shares);
      t.ahead_bytes = F::kUnitBytes / shares;
      if (i >= shares) {
        t.ahead = t.right;
        t.ahead_bytes = 0;
      }
      for (t.column = 0; t.column < least(kPanel, b.cols - c); t.column += 2 * kLanes) {
        run_tile<kBits>(t, end - begin, std::make_integer_sequence<int, kTileRows>());
        finish<Out>(b, totals, begin, end - begin, c + t.column);
      }
    }
  }
}

#endif

template <int kBits>
void pack(std::byte* panel, const IntRows& rows) {
  using F = Format<kBits>;
  constexpr int64_t kPerByte = 8 / kBits;
  const int64_t bytes = (rows.k + kPerByte - 1) / kPerByte;
  for (int64_t k = 0; k < int_sums(rows.k) * kIntSum; k += F::kNumbers) {
    for (int64_t c = 0; c < kPanel; ++c) {
      uint16_t scale = 0;
      if (c < rows.codes.rows && k < rows.k) {
        __builtin_memcpy(&scale, row_of<uint16_t>(rows.scales, c) + k / F::kNumbers, sizeof scale);
      }
      __builtin_memcpy(panel + 2 * c, &scale, sizeof scale);
    }
    panel += F::kScaleBytes;
    for (int64_t u = k; u < k + F::kNumbers; u += 4, panel += F::kUnitBytes) {
      for (int64_t c = 0; c < kPanel; ++c) {
        uint8_t four[4] = {};
        const int64_t from = u / kPerByte, n = least(4 / kPerByte, bytes - from);
        if (c < rows.codes.rows && n > 0) {
          __builtin_memcpy(four, row_of<uint8_t>(rows.codes, c) + from, static_cast<size_t>(n));
        }
        auto* to = reinterpret_cast<uint8_t*>(panel);
        for (int64_t i = 0; i < 4; ++i) {
          if (kBits == 8) {
            to[4 * c + i] = static_cast<uint8_t>(four[i] ^ 0x80);
          } else {
            const int half = four[i / 2] >> (i % 2 * 4) & 0xf;
            uint8_t& byte = to[4 * (c % 16) + i];
            byte = static_cast<uint8_t>(c < 16 ? half : byte | half << 4);
          }
        }
      }
    }
  }
}

template <typename X>
bool quantize(std::byte* row, const void* x, int64_t k) {
  auto* tile = reinterpret_cast<IntTile*>(row);
  for (int64_t begin = 0; begin < k; begin += kIntSum, ++tile) {
    const X* from = static_cast<const X*>(x) + begin;
    const int64_t count = least(kIntSum, k - begin);
    Vec top = zero(), bad = zero();
    for_each_vector(count, [&](int64_t i, int n) {
      const Vec v = load_n(from + i, n);
      top = max(top, max(v, zero() - v));
      bad = fma(v, zero(), bad);  // infinity and NaN give NaN
    });
    if (!(reduce_add(bad) == 0.0F)) return false;
    const float amax = reduce_max(top), quotient = amax / 127.0F;
    // As int8_scale.
    tile->scale = amax == 0 ? 1.0F : quotient < 0x1p-126F ? 0x1p-126F : quotient;
    float nearest[kIntSum] = {};
    for_each_vector(count, [&](int64_t i, int n) {
      store_n(nearest + i, round(load_n(from + i, n) / splat(tile->scale)), n);
    });
    int32_t all = 0;
    for (int64_t part = 0; part < kIntSum / kIntSums; ++part) {
      int32_t sum = 0;
      for (int64_t i = part * kIntSums; i < (part + 1) * kIntSums; ++i) {
        const auto code = static_cast<int32_t>(nearest[i]);
        tile->codes[i] = static_cast<int8_t>(code);
        sum += code;
      }
      tile->offset_of_4[part] = -Format<4>::kOffset * sum;
      all += sum;
    }
    tile->offset_of_8 = -Format<8>::kOffset * all;
  }
  return true;
}

}  // namespace

const IntKernels& int_kernels() {
  static constexpr IntKernels kTable{
      {{block<8, float>, block<8, bf16>}, {block<4, float>, block<4, bf16>}},
      {pack<8>, pack<4>},
      {quantize<float>, quantize<bf16>}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
