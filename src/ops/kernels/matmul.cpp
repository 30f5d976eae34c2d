#include "ops/kernels/matmul.h"

#include <utility>

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

template <typename X>
inline constexpr int64_t kNumbersPerUnit = kUnitBytes / static_cast<int64_t>(sizeof(X));

// Some rows by one panel, over some units of the sum.
struct Tile {
  const std::byte* left;
  int64_t row_stride, unit_stride;
  const std::byte* right;
  int64_t units;     // whole ones
  bool half;         // after them, one whose second number is past the end of the row
  bool first, last;  // of the sum's parts: totals start at zero; they go to `out`
  float* totals;     // [rows, kBlockPanels * kPanel], between the parts
  void* out;
  int64_t out_stride;
  int cols;
  bool accumulate;
  const std::byte* ahead;  // what to fetch meanwhile: a cache line every kUnitsPerLine units
  int64_t ahead_stride;    // bytes; 0: nothing
};
constexpr int64_t kCacheLine = 64, kUnitsPerLine = 2;
constexpr int64_t kTotalsStride = kBlockPanels * kPanel;

#if defined(MINKE_TARGET_scalar)

constexpr int kTileRows = 1;

void add_unit(float* total, const float* left, const float* right) {
  for (int c = 0; c < kPanel; ++c) total[c] += *left * right[c];
}
void add_unit(float* total, const bf16* left, const bf16* right, int numbers) {
  const float first = load(left).v, second = numbers == 2 ? load(left + 1).v : 0.0F;
  for (int c = 0; c < kPanel; ++c) {
    total[c] += first * load(right + 2 * c).v;
    total[c] += second * load(right + 2 * c + 1).v;
  }
}
void add_unit(float* total, const bf16* left, const bf16* right) {
  add_unit(total, left, right, 2);
}

template <typename X, typename Out, int kRows>
void tile(const Tile& t) {
  float total[kPanel] = {};
  if (!t.first) __builtin_memcpy(total, t.totals, sizeof total);
  const auto* right = reinterpret_cast<const X*>(t.right);
  constexpr int64_t kStep = kPanel * kNumbersPerUnit<X>;
  const std::byte* left = t.left;
  for (int64_t u = 0; u < t.units; ++u, left += t.unit_stride, right += kStep) {
    add_unit(total, reinterpret_cast<const X*>(left), right);
  }
  if constexpr (kNumbersPerUnit<X> == 2) {
    if (t.half) add_unit(total, reinterpret_cast<const X*>(left), right, 1);
  }
  if (!t.last) {
    __builtin_memcpy(t.totals, total, sizeof total);
    return;
  }
  Out* out = static_cast<Out*>(t.out);
  for (int c = 0; c < t.cols; ++c) {
    store(out + c, {t.accumulate ? load(out + c).v + total[c] : total[c]});
  }
}

#else

// A tile is kRows rows by kColumns columns, its totals in registers; where a panel has no more than
// half as many left, kVectors is 1 instead of 2. Up to kFewRows alone take whole panels (few_rows).
constexpr int kColumns = 2 * kLanes;

#if defined(MINKE_TARGET_avx512)
constexpr int kTileRows = 12;  // 24 totals, 2 of the right side, 6 left over of 32 registers
constexpr int kFewRows = kTileRows;
#else
constexpr int kTileRows = 6;  // 12 totals, 2 of the right side, 2 left over of 16 registers
constexpr int kFewRows = 2;   // 8 totals, 4 of the right side
#endif

// Adds one unit of every row to the totals. kNumbers: 1 where a pair has no second.
template <int kRows, int kVectors>
[[gnu::always_inline]] inline void add_unit(Vec (&total)[kRows][kVectors], const std::byte* left,
                                            int64_t row_stride, const std::byte* right,
                                            const float*) {
  Vec b[kVectors];
  for (int v = 0; v < kVectors; ++v)
    b[v] = load(reinterpret_cast<const float*>(right + v * kLanes * kUnitBytes));
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const Vec a = splat(*reinterpret_cast<const float*>(left + r * row_stride));
    for (int v = 0; v < kVectors; ++v) total[r][v] = fma(a, b[v], total[r][v]);
  }
}

template <int kNumbers>
inline int32_t pair_at(const std::byte* left) {
  uint32_t pair = 0;
  __builtin_memcpy(&pair, left, kNumbers * sizeof(bf16));
  return static_cast<int32_t>(pair);
}

#if defined(MINKE_TARGET_avx512)

template <int kNumbers, int kRows, int kVectors>
[[gnu::always_inline]] inline void add_pairs(Vec (&total)[kRows][kVectors], const std::byte* left,
                                             int64_t row_stride, const std::byte* right) {
  __m512bh b[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    b[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right + v * kLanes * kUnitBytes));
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const auto a =
        reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair_at<kNumbers>(left + r * row_stride)));
    for (int v = 0; v < kVectors; ++v) total[r][v].v = _mm512_dpbf16_ps(total[r][v].v, a, b[v]);
  }
}

#else

inline Vec first_of_pairs(__m256i pairs) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))};
}
inline Vec second_of_pairs(__m256i pairs) {
  return {_mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(~0xffff)))};
}

// All first numbers, then all second ones: so few registers hold what is in use.
template <int kNumbers, int kRows, int kVectors>
[[gnu::always_inline]] inline void add_pairs(Vec (&total)[kRows][kVectors], const std::byte* left,
                                             int64_t row_stride, const std::byte* right) {
  const auto add = [&](auto&& part) __attribute__((always_inline)) {
    Vec b[kVectors];
    for (int v = 0; v < kVectors; ++v)
      b[v] = part(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(right + v * kLanes * kUnitBytes)));
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec a = part(_mm256_set1_epi32(pair_at<kNumbers>(left + r * row_stride)));
      for (int v = 0; v < kVectors; ++v) total[r][v] = fma(a, b[v], total[r][v]);
    }
  };
  add([](__m256i pairs) { return first_of_pairs(pairs); });
  if (kNumbers == 2) add([](__m256i pairs) { return second_of_pairs(pairs); });
}

#endif

template <int kRows, int kVectors>
[[gnu::always_inline]] inline void add_unit(Vec (&total)[kRows][kVectors], const std::byte* left,
                                            int64_t row_stride, const std::byte* right,
                                            const bf16*) {
  add_pairs<2>(total, left, row_stride, right);
}

// Totals wait for their place in memory at the end, so it is asked for at the beginning.
template <typename Out, int kRows>
inline void fetch_out(const Tile& t, int column) {
  const Out* row = static_cast<const Out*>(t.out) + column;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, row += t.out_stride) {
    __builtin_prefetch(row, 1);
    if (sizeof(Out) * kColumns > kCacheLine) __builtin_prefetch(row + kLanes, 1);
  }
}

template <int kRows, int kVectors>
[[gnu::always_inline]] inline void load_totals(Vec (&total)[kRows][kVectors], const float* from,
                                               int64_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, from += stride) {
    for (int v = 0; v < kVectors; ++v) total[r][v] = load(from + v * kLanes);
  }
}

template <typename Out, int kRows, int kVectors>
[[gnu::always_inline]] inline void store_totals(const Vec (&total)[kRows][kVectors], Out* to,
                                                int64_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, to += stride) {
    for (int v = 0; v < kVectors; ++v) store(to + v * kLanes, total[r][v]);
  }
}

template <typename Out, int kRows, int kVectors>
[[gnu::always_inline]] inline void add_to_out(const Vec (&total)[kRows][kVectors], Out* to,
                                              int64_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, to += stride) {
    for (int v = 0; v < kVectors; ++v) {
      store(to + v * kLanes, load(to + v * kLanes) + total[r][v]);
    }
  }
}

// The last columns of a matrix, fewer than a tile has, from the totals in memory.
template <typename Out>
[[gnu::noinline]] void finish_edge(const Tile& t, int column, int rows) {
  for (int r = 0; r < rows; ++r) {
    const float* total = t.totals + r * kTotalsStride + column;
    Out* out = static_cast<Out*>(t.out) + r * t.out_stride + column;
    for_each_vector(t.cols - column, [&](int64_t i, int n) {
      const Vec sum = load_n(total + i, n);
      store_n(out + i, t.accumulate ? load_n(out + i, n) + sum : sum, n);
    });
  }
}

template <typename Out, int kRows, int kVectors>
[[gnu::always_inline]] inline void finish(const Vec (&total)[kRows][kVectors], const Tile& t,
                                          int column) {
  const bool whole = t.cols - column >= kVectors * kLanes;
  Out* out = static_cast<Out*>(t.out) + column;
  if (!t.last || !whole) {
    store_totals(total, t.totals + column, kTotalsStride);
    if (t.last) finish_edge<Out>(t, column, kRows);
  } else if (t.accumulate) {
    add_to_out(total, out, t.out_stride);
  } else {
    store_totals(total, out, t.out_stride);
  }
}

// Columns of a panel, from `column` on.
template <typename X, typename Out, int kRows, int kVectors>
inline void tile_columns(const Tile& t, int column) {
  Vec total[kRows][kVectors] = {};
  if (t.last) fetch_out<Out, kRows>(t, column);
  if (!t.first) load_totals(total, t.totals + column, kTotalsStride);
  const std::byte* left = t.left;
  const std::byte* right = t.right + column * kUnitBytes;
  constexpr const X* kNumbers = nullptr;
  const std::byte* ahead = t.ahead;
  const int64_t units = t.units, row_stride = t.row_stride, unit_stride = t.unit_stride,
                ahead_stride = t.ahead_stride;
  int64_t u = 0;
  for (; u + kUnitsPerLine <= units; u += kUnitsPerLine) {
    __builtin_prefetch(ahead, 0, 2);
    ahead += ahead_stride;
#pragma GCC unroll 2
    for (int64_t i = 0; i < kUnitsPerLine; ++i) {
      add_unit(total, left, row_stride, right, kNumbers);
      left += unit_stride;
      right += kPanel * kUnitBytes;
    }
  }
  for (; u < units; ++u) {
    add_unit(total, left, row_stride, right, kNumbers);
    left += unit_stride;
    right += kPanel * kUnitBytes;
  }
  if constexpr (kNumbersPerUnit<X> == 2) {
    if (t.half) add_pairs<1>(total, left, row_stride, right);
  }
  finish<Out>(total, t, column);
}

template <typename X, typename Out, int kRows>
void tile(const Tile& t) {
  int column = 0;
  for (; column + kLanes < t.cols; column += kColumns) tile_columns<X, Out, kRows, 2>(t, column);
  if (column < t.cols) tile_columns<X, Out, kRows, 1>(t, column);
}

#endif

template <typename X, typename Out, int... kRowsLessOne>
void run_tile(const Tile& t, int64_t rows, std::integer_sequence<int, kRowsLessOne...>) {
  static constexpr void (*kTiles[])(const Tile&) = {tile<X, Out, kRowsLessOne + 1>...};
  kTiles[rows - 1](t);
}

// A part of a block: some panels, over some units of the sum.
struct Stage {
  int64_t column, columns;
  int64_t unit;
  const std::byte* right;  // of the first panel, at `unit`
  const std::byte* next;   // what the stage after it begins with, panel by panel; may be null
  int64_t panel_bytes;
  Tile tile;                  // what all its tiles share
  int64_t rows_of_tiles = 0;  // done
};

// The rows of a group. They are cut evenly, so that no tile is so low that it starves the
// arithmetic; each row of tiles fetches its share of the next stage's panels.
template <typename X, typename Out>
void run_rows(const MatmulBlock& b, Stage& stage, int64_t row, int64_t rows) {
  constexpr int64_t kShares = kPanel * kUnitBytes / kCacheLine * kUnitsPerLine;
  const std::byte* left = b.left + row / b.group_rows * b.group_stride + stage.unit * b.unit_stride;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = rows * i / tiles, end = rows * (i + 1) / tiles;
    const int64_t share = stage.rows_of_tiles++;
    const bool fetch = stage.next != nullptr && share < kShares;
    Tile t = stage.tile;
    t.left = left + begin * b.row_stride;
    t.ahead_stride = fetch ? kCacheLine : 0;
    for (int64_t c = 0; c < stage.columns; c += t.cols) {
      const int64_t rest = stage.columns - c;
      const int64_t panel = c / kPanel * stage.panel_bytes;
      t.right = stage.right + panel;
      t.ahead =
          fetch ? stage.next + panel + share * (t.units / kUnitsPerLine) * kCacheLine : t.right;
      t.totals = stage.tile.totals + (row + begin) * kTotalsStride + c;
      t.out = static_cast<Out*>(b.out) + (row + begin) * b.out_stride + stage.column + c;
      t.cols = static_cast<int>(rest < kPanel ? rest : kPanel);
      run_tile<X, Out>(t, end - begin, std::make_integer_sequence<int, kTileRows>());
    }
  }
}

template <typename X, typename Out>
void run_stage(const MatmulBlock& b, Stage stage) {
  for (int64_t row = 0; row < b.rows; row += b.group_rows) {
    const int64_t left = b.rows - row;
    run_rows<X, Out>(b, stage, row, left < b.group_rows ? left : b.group_rows);
  }
}

#if !defined(MINKE_TARGET_scalar)

static_assert(kFewRows <= kPanel);  // so they are of one group

// Rows of which reading the panels takes the time: panel after panel is one run of memory, which is
// asked for further ahead than processors do by themselves.
template <typename X, typename Out, int kRows>
void few_rows(const MatmulBlock& b) {
  constexpr int64_t kAhead = 8192;
  constexpr const X* kNumbers = nullptr;
  const int64_t units = b.k / kNumbersPerUnit<X>, row_stride = b.row_stride,
                unit_stride = b.unit_stride;
  alignas(64) float edge[kRows * kTotalsStride];
  Tile t{};
  t.last = true;
  t.totals = edge;
  t.out_stride = b.out_stride;
  t.accumulate = b.accumulate;
  const std::byte *right = b.right, *ahead = right + kAhead;
  for (int64_t column = 0; column < b.cols; column += kPanel) {
    t.out = static_cast<Out*>(b.out) + column;
    t.cols = static_cast<int>(b.cols - column < kPanel ? b.cols - column : kPanel);
    for (int c = 0; c < kPanel; c += kColumns) fetch_out<Out, kRows>(t, c);
    Vec total[kRows][kPanel / kLanes] = {};
    const std::byte* left = b.left;
    const auto add = [&](auto&& unit) __attribute__((always_inline)) {
      asm("" : "+r"(ahead));  // or the compiler asks out of order
      for (int64_t at = 0; at < kPanel * kUnitBytes; at += kCacheLine)
        __builtin_prefetch(ahead + at);
      ahead += kPanel * kUnitBytes;
      unit();
      left += unit_stride;
      right += kPanel * kUnitBytes;
    };
#pragma GCC unroll 4
    for (int64_t u = 0; u < units; ++u) {
      add([&] { add_unit(total, left, row_stride, right, kNumbers); });
    }
    if constexpr (kNumbersPerUnit<X> == 2) {
      if (b.k % 2 != 0) add([&] { add_pairs<1>(total, left, row_stride, right); });
    }
    finish<Out>(total, t, 0);
  }
}

template <typename X, typename Out, int... kRowsLessOne>
void run_few_rows(const MatmulBlock& b, std::integer_sequence<int, kRowsLessOne...>) {
  static constexpr void (*kBlocks[])(const MatmulBlock&) = {few_rows<X, Out, kRowsLessOne + 1>...};
  kBlocks[b.rows - 1](b);
}

#endif

template <typename X, typename Out>
void block(const MatmulBlock& b) {
#if !defined(MINKE_TARGET_scalar)
  if (b.rows > 0 && b.rows <= kFewRows) {
    return run_few_rows<X, Out>(b, std::make_integer_sequence<int, kFewRows>());
  }
#endif
  constexpr int64_t kUnit = kPanel * kUnitBytes, kColumnsAtOnce = kBlockPanels * kPanel;
  alignas(64) float totals[kBlockRows * kTotalsStride];
  const int64_t whole = b.k / kNumbersPerUnit<X>;
  const bool half = b.k % kNumbersPerUnit<X> != 0;
  Stage stage{};
  stage.panel_bytes = (whole + (half ? 1 : 0)) * kUnit;
  Tile& t = stage.tile;
  t.row_stride = b.row_stride;
  t.unit_stride = b.unit_stride;
  t.totals = totals;
  t.out_stride = b.out_stride;
  t.accumulate = b.accumulate;
  for (int64_t column = 0; column < b.cols; column += kColumnsAtOnce) {
    const int64_t rest = b.cols - column;
    const std::byte* right = b.right + column / kPanel * stage.panel_bytes;
    stage.column = column;
    stage.columns = rest < kColumnsAtOnce ? rest : kColumnsAtOnce;
    for (int64_t u = 0; u == 0 || u < whole; u += kBlockUnits) {
      t.first = u == 0;
      t.last = u + kBlockUnits >= whole;
      t.units = t.last ? whole - u : kBlockUnits;
      t.half = t.last && half;
      stage.unit = u;
      stage.right = right + u * kUnit;
      stage.next = !t.last                 ? stage.right + kBlockUnits * kUnit
                   : rest > kColumnsAtOnce ? right + kBlockPanels * stage.panel_bytes
                                           : nullptr;
      run_stage<X, Out>(b, stage);
    }
  }
}

#if defined(MINKE_TARGET_avx2)

// More rows than one tile: BF16 of both sides is widened once, a part of the sum at a time, and
// multiplied as FP32. The totals are the same, number by number.
constexpr int64_t kWideNumbers = 256;
constexpr int64_t kWideStride = kWideNumbers + kCacheLine / 4;  // of rows that would share sets

// Units of `columns` columns side by side (at most kPanel), `stride` bytes from one to the next,
// become units of a panel of FP32, one for each number.
void widen_units(float* to, const std::byte* from, int64_t stride, int64_t columns, int64_t units) {
  const auto widen = [&](int64_t c, int n) __attribute__((always_inline)) {
    const Vec bits = load_n(reinterpret_cast<const float*>(from) + c, n);
    const __m256i pairs = _mm256_castps_si256(bits.v);
    store(to + c, first_of_pairs(pairs));
    store(to + kPanel + c, second_of_pairs(pairs));
  };
  for (int64_t u = 0; u < units; ++u, to += 2 * kPanel, from += stride) {
    if (columns == kPanel) {
      for (int64_t c = 0; c < kPanel; c += kLanes) widen(c, kLanes);
    } else {
      for_each_vector(columns, widen);
    }
  }
}

// The left side of a block, numbers [begin, begin + numbers) of each row.
struct WideLeft {
  alignas(64) float data[kBlockRows * kWideStride];
  int64_t group_rows, group_stride, row_stride, unit_stride;  // as MatmulBlock's

  void widen(const MatmulBlock& b, int64_t begin, int64_t numbers) {
    if (b.unit_stride == kUnitBytes) {
      group_rows = kBlockRows;
      row_stride = kWideStride * kUnitBytes;
      unit_stride = kUnitBytes;
      for (int64_t r = 0; r < b.rows; ++r) {
        const auto* from = reinterpret_cast<const bf16*>(b.left + r * b.row_stride) + begin;
        float* to = data + r * kWideStride;
        for_each_vector(numbers, [&](int64_t i, int n) { store(to + i, load_n(from + i, n)); });
      }
      return;
    }
    group_rows = kPanel;
    group_stride = kWideNumbers * kPanel * kUnitBytes;
    row_stride = kUnitBytes;
    unit_stride = kPanel * kUnitBytes;
    for (int64_t r = 0; r < b.rows; r += kPanel) {
      const std::byte* from =
          b.left + r / b.group_rows * b.group_stride + r % b.group_rows * kUnitBytes;
      widen_units(data + r * kWideNumbers, from + begin / 2 * b.unit_stride, b.unit_stride,
                  b.rows - r < kPanel ? b.rows - r : kPanel, (numbers + 1) / 2);
    }
  }
};

template <typename Out>
void block_of_bf16(const MatmulBlock& b) {
  if (b.rows <= kTileRows) return block<bf16, Out>(b);
  constexpr int64_t kColumnsAtOnce = kBlockPanels * kPanel;
  alignas(64) float totals[kBlockRows * kTotalsStride];
  alignas(64) float panel[kWideNumbers * kPanel];
  WideLeft left;
  const int64_t panel_bytes = (b.k + 1) / 2 * kPanel * kUnitBytes;
  for (int64_t column = 0; column < b.cols; column += kColumnsAtOnce) {
    for (int64_t begin = 0; begin == 0 || begin < b.k; begin += kWideNumbers) {
      const int64_t numbers = b.k - begin < kWideNumbers ? b.k - begin : kWideNumbers;
      left.widen(b, begin, numbers);
      for (int64_t c = column; c < b.cols && c < column + kColumnsAtOnce; c += kPanel) {
        widen_units(panel, b.right + c / kPanel * panel_bytes + begin / 2 * kPanel * kUnitBytes,
                    kPanel * kUnitBytes, kPanel, (numbers + 1) / 2);
        MatmulBlock wide = b;
        wide.left = reinterpret_cast<const std::byte*>(left.data);
        wide.group_rows = left.group_rows;
        wide.group_stride = left.group_stride;
        wide.row_stride = left.row_stride;
        wide.unit_stride = left.unit_stride;
        wide.right = reinterpret_cast<const std::byte*>(panel);
        Stage stage{};
        stage.column = c;
        stage.columns = b.cols - c < kPanel ? b.cols - c : kPanel;
        stage.right = wide.right;
        Tile& t = stage.tile;
        t.row_stride = wide.row_stride;
        t.unit_stride = wide.unit_stride;
        t.units = numbers;
        t.first = begin == 0;
        t.last = begin + kWideNumbers >= b.k;
        t.totals = totals + (c - column);
        t.out_stride = b.out_stride;
        t.accumulate = b.accumulate;
        run_stage<float, Out>(wide, stage);
      }
    }
  }
}

#else

template <typename Out>
void block_of_bf16(const MatmulBlock& b) {
  block<bf16, Out>(b);
}

#endif

}  // namespace

const MatmulKernels& matmul_kernels() {
  static constexpr MatmulKernels kTable{
      {{block<float, float>, block<float, bf16>}, {block_of_bf16<float>, block_of_bf16<bf16>}}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
