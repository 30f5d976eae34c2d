// Tiles of a product whose right operand is E4M3: rows by columns of a panel, over some blocks of
// the sum, each added up in registers, scaled, and added to totals in memory. To be included by
// ops/kernels/matmul_fp8.cpp only, for the sets that have vectors.
#pragma once

#include <utility>

#include "ops/kernels/fp8_widen.h"

namespace minke::ops::kernels::MINKE_TARGET {

constexpr int64_t kTotalsStride = kBlockPanels * kPanel;

// What is widened at a time stays in a core's second cache: so many numbers of the sum, in so many
// blocks.
#if defined(MINKE_TARGET_avx512)
constexpr int64_t kStageNumbers = 2 * kBlockUnits;
#else
constexpr int64_t kStageNumbers = 256;  // FP32, of both sides
#endif
constexpr int64_t kStageBlocks = kStageNumbers / kScaleBlock;
constexpr int64_t kMostStageBlocks = 32;

// A block of the sum within a stage.
struct Block {
  int64_t units;  // whole ones
  bool half;      // after them, one whose second number is past the end of the row
};

// Rows by columns of a panel, over the blocks of a stage.
struct Tile {
  const std::byte* left;
  int64_t row_stride, unit_stride;
  const std::byte* right;  // units widened to the left side's format; or codes
  const Block* blocks;
  int64_t count;            // of blocks
  bool first;               // stage: totals begin
  const float* left_scale;  // of the first row and block; null: 1
  int64_t left_scale_row, left_scale_block;
  const float* right_scale;  // [blocks, kTotalsStride]
  float* totals;
  // What to fetch meanwhile: so many bytes with every block; where codes are widened in registers,
  // with every unit.
  const std::byte* ahead;
  int64_t ahead_bytes;
  // Where whole vectors of totals go once the sum is at its end; null: it is not, or they stay.
  void* out;
  int64_t out_stride;
  bool accumulate;
};

#if defined(MINKE_TARGET_avx512)

constexpr int kTileRows = 12;  // 24 sums, 2 of the right side, 6 left over of 32 registers
// Rows of BF16 by codes, which are widened in registers: 24 sums, 5 for its tables, 3 for a unit. 8
// rows leave registers over, and are taken where they come out even.
constexpr int kDirectRows = 12, kEvenRows = 8;

template <int kNumbers>
inline __m512bh pair_at(const std::byte* left) {
  uint32_t pair = 0;
  __builtin_memcpy(&pair, left, kNumbers * sizeof(bf16));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(pair)));
}

template <int kNumbers, int kRows, int kVectors>
[[gnu::always_inline]] inline void add_pairs(Vec (&sum)[kRows][kVectors], const std::byte* left,
                                             int64_t row_stride, const __m512i (&right)[2]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const __m512bh a = pair_at<kNumbers>(left + r * row_stride);
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v].v = _mm512_dpbf16_ps(sum[r][v].v, a, reinterpret_cast<__m512bh>(right[v]));
    }
  }
}

#else

constexpr int kTileRows = 6;  // 12 sums, 2 of the right side, 2 left over of 16 registers

#endif

template <typename X, int kRows, int kVectors>
[[gnu::always_inline]] inline void add_unit(Vec (&sum)[kRows][kVectors], const std::byte* left,
                                            int64_t row_stride, const std::byte* right) {
#if defined(MINKE_TARGET_avx512)
  if constexpr (sizeof(X) == sizeof(bf16)) {
    __m512i pairs[2];
    for (int v = 0; v < kVectors; ++v) pairs[v] = _mm512_load_si512(right + 64 * v);
    add_pairs<2>(sum, left, row_stride, pairs);
    return;
  }
#endif
  Vec b[kVectors];
  for (int v = 0; v < kVectors; ++v)
    b[v] = load(reinterpret_cast<const float*>(right) + v * kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const Vec a = splat(*reinterpret_cast<const float*>(left + r * row_stride));
    for (int v = 0; v < kVectors; ++v) sum[r][v] = fma(a, b[v], sum[r][v]);
  }
}

template <bool kScaled, bool kBegin, int kRows, int kVectors>
[[gnu::always_inline]] inline void promote_as(const Vec (&sum)[kRows][kVectors], const Tile& t,
                                              int64_t block) {
  const float* scales = t.right_scale + block * kTotalsStride;
  const float* left = t.left_scale + block * t.left_scale_block;
  const int64_t left_row = t.left_scale_row;
  float* totals = t.totals;
  Vec right[kVectors];
  for (int v = 0; v < kVectors; ++v) right[v] = load(scales + v * kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, totals += kTotalsStride) {
    for (int v = 0; v < kVectors; ++v) {
      const Vec scaled = kScaled ? sum[r][v] * splat(left[r * left_row]) : sum[r][v];
      float* total = totals + v * kLanes;
      store(total, kBegin ? scaled * right[v] : fma(scaled, right[v], load(total)));
    }
  }
}

// Sums of a block, scaled, go to the totals. What holds for all rows is asked once.
template <int kRows, int kVectors>
[[gnu::always_inline]] inline void promote(const Vec (&sum)[kRows][kVectors], const Tile& t,
                                           int64_t block) {
  const bool begin = t.first && block == 0;
  if (t.left_scale == nullptr) {
    begin ? promote_as<false, true>(sum, t, block) : promote_as<false, false>(sum, t, block);
  } else {
    begin ? promote_as<true, true>(sum, t, block) : promote_as<true, false>(sum, t, block);
  }
}

// As promote, where the sum is at its end.
template <typename Out, int kRows, int kVectors>
[[gnu::always_inline]] inline void promote_to_out(const Vec (&sum)[kRows][kVectors], const Tile& t,
                                                  int64_t block) {
  const bool begin = t.first && block == 0;
  const float* scales = t.right_scale + block * kTotalsStride;
  const float* left = t.left_scale + block * t.left_scale_block;
  Out* out = static_cast<Out*>(t.out);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, out += t.out_stride) {
    const Vec mine = splat(t.left_scale == nullptr ? 1.0F : left[r * t.left_scale_row]);
    const float* total = t.totals + r * kTotalsStride;
    for (int v = 0; v < kVectors; ++v) {
      const Vec scaled = sum[r][v] * mine, right = load(scales + v * kLanes);
      const Vec whole = begin ? scaled * right : fma(scaled, right, load(total + v * kLanes));
      store(out + v * kLanes, t.accumulate ? load(out + v * kLanes) + whole : whole);
    }
  }
}

// Totals wait for their place in memory at the end, so it is asked for at the beginning.
template <typename Out, int kRows>
inline void fetch_out(const Tile& t) {
  constexpr int64_t kCacheLine = 64;
  const Out* row = static_cast<const Out*>(t.out);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, row += t.out_stride) {
    __builtin_prefetch(row, 1);
    if (sizeof(Out) * 2 * kLanes > kCacheLine) __builtin_prefetch(row + kLanes, 1);
  }
}

// From widened units.
template <typename X, typename Out, int kRows, int kVectors>
inline void tile_columns(const Tile& t) {
  constexpr int64_t kCacheLine = 64;
  const std::byte *left = t.left, *right = t.right, *ahead = t.ahead;
  const int64_t row_stride = t.row_stride, unit_stride = t.unit_stride;
  if (t.out != nullptr) fetch_out<Out, kRows>(t);
  for (int64_t i = 0; i < t.count; ++i) {
    for (int64_t at = 0; at < t.ahead_bytes; at += kCacheLine) {
      __builtin_prefetch(ahead + at, 0, 2);
    }
    ahead += t.ahead_bytes;
    Vec sum[kRows][kVectors] = {};
#pragma GCC unroll 2
    for (int64_t u = 0; u < t.blocks[i].units; ++u) {
      add_unit<X>(sum, left, row_stride, right);
      left += unit_stride;
      right += kWideUnitBytes;
    }
#if defined(MINKE_TARGET_avx512)
    if constexpr (sizeof(X) == sizeof(bf16)) {
      if (t.blocks[i].half) {  // the last one of all
        __m512i pairs[2];
        for (int v = 0; v < kVectors; ++v) pairs[v] = _mm512_load_si512(right + 64 * v);
        add_pairs<1>(sum, left, row_stride, pairs);
      }
    }
#endif
    if (t.out != nullptr && i + 1 == t.count) {
      promote_to_out<Out>(sum, t, i);
    } else {
      promote(sum, t, i);
    }
  }
}

// Where the last panel begins if its columns do not fill vectors: of it totals stay.
inline int64_t whole_columns(int64_t columns) {
  return columns % kLanes == 0 ? columns : columns / kPanel * kPanel;
}

template <typename X, typename Out, int kRows>
void tile(const Tile& t, int64_t columns) {
  constexpr int kVectors = static_cast<int>(kPanel) / kLanes;
  if constexpr (kVectors == 2) {
    columns <= kLanes ? tile_columns<X, Out, kRows, 1>(t) : tile_columns<X, Out, kRows, 2>(t);
  } else {
    for (int64_t c = 0; c < columns; c += 2 * kLanes) {
      Tile part = t;
      part.right += c * kUnitBytes;
      part.right_scale += c;
      part.totals += c;
      if (t.out != nullptr) part.out = static_cast<Out*>(t.out) + c;
      if (columns - c <= kLanes) {
        tile_columns<X, Out, kRows, 1>(part);
      } else {
        tile_columns<X, Out, kRows, 2>(part);
      }
    }
  }
}

template <typename X, typename Out, int... kRowsLessOne>
void run_tile(const Tile& t, int64_t rows, int64_t columns,
              std::integer_sequence<int, kRowsLessOne...>) {
  static constexpr void (*kTiles[])(const Tile&, int64_t) = {tile<X, Out, kRowsLessOne + 1>...};
  kTiles[rows - 1](t, columns);
}

#if defined(MINKE_TARGET_avx512)

// From codes, which are read from memory in one run, panel after panel.
template <int kRows>
void direct_tile(const Tile& t) {
  const Widener widener(magnitudes());
  const std::byte *left = t.left, *right = t.right, *ahead = t.ahead;
  const int64_t row_stride = t.row_stride, unit_stride = t.unit_stride;
  for (int64_t i = 0; i < t.count; ++i) {
    Vec sum[kRows][2] = {};
    const auto add = [&](auto numbers) __attribute__((always_inline)) {
      __builtin_prefetch(ahead);
      ahead += t.ahead_bytes;
      __m512i pairs[2];
      widener.widen(pairs, right);
      add_pairs<numbers()>(sum, left, row_stride, pairs);
      left += unit_stride;
      right += kFp8UnitBytes;
    };
#pragma GCC unroll 4
    for (int64_t u = 0; u < t.blocks[i].units; ++u) add(std::integral_constant<int, 2>());
    if (t.blocks[i].half) add(std::integral_constant<int, 1>());
    promote(sum, t, i);
  }
}

template <int... kRowsLessOne>
void run_direct(const Tile& t, int64_t rows, std::integer_sequence<int, kRowsLessOne...>) {
  static constexpr void (*kTiles[])(const Tile&) = {direct_tile<kRowsLessOne + 1>...};
  kTiles[rows - 1](t);
}

#endif

}  // namespace minke::ops::kernels::MINKE_TARGET
