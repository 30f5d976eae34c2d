#include "ops/kernels/matmul_fp8.h"

#include <utility>

#include "ops/kernels/fp8_unit.h"
#include "ops/kernels/matmul.h"
#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

// Where a column's pair lies in a unit.
inline int64_t slot(int64_t column) { return column % 16 / 4 * 8 + column / 16 * 4 + column % 4; }

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

[[maybe_unused]] const std::byte* left_row(const Fp8Block& b, int64_t row) {
  return b.left + row / b.group_rows * b.group_stride + row % b.group_rows * b.row_stride;
}

// Walks over the blocks of the sum.
struct SumBlock {
  int64_t segment, k, begin = 0, numbers = 0, index = 0;
  explicit SumBlock(const Fp8Block& b) : segment(b.segment), k(b.k) { measure(); }
  void next() {
    begin += numbers;
    ++index;
    measure();
  }

 private:
  void measure() {
    const int64_t rest = least(segment - begin % (segment > 0 ? segment : 1), k - begin);
    numbers = least(rest, kScaleBlock);
  }
};

// The right side's scales of the panels from `column` on, at a block of the sum.
void load_scales(float* to, const Fp8Block& b, int64_t column, int64_t columns, int64_t block) {
  const float* from = b.right_scale + block * b.right_scale_block;
  int64_t c = b.first_column + column;
  const int64_t end = c + columns;
  while (c < end) {
    const int64_t tile = c / b.right_tile, tile_end = least(end, (tile + 1) * b.right_tile);
    const float scale = from[tile * b.right_scale_tile];
    for (; c < tile_end; ++c) *to++ = scale;
  }
}

#if defined(MINKE_TARGET_scalar)

struct Numbers {
  float of[256];
  Numbers() : of() {
    for (int code = 0; code < 256; ++code) of[code] = e4m3_decode(static_cast<uint8_t>(code));
  }
};

float number(const float* p) { return *p; }
float number(const bf16* p) { return load(p).v; }

template <typename X, typename Out>
void block(const Fp8Block& b) {
  constexpr int64_t kPerUnit = kUnitBytes / static_cast<int64_t>(sizeof(X));
  static const Numbers numbers;
  const int64_t panel_bytes = (b.k + 1) / 2 * kFp8UnitBytes;
  for (int64_t column = 0; column < b.cols; column += kPanel) {
    const auto* codes = reinterpret_cast<const uint8_t*>(b.right + column / kPanel * panel_bytes);
    const int64_t columns = least(kPanel, b.cols - column);
    for (int64_t r = 0; r < b.rows; ++r) {
      float total[kPanel] = {};
      for (SumBlock s(b); s.begin < b.k; s.next()) {
        float sum[kPanel] = {}, scale[kPanel] = {};
        for (int64_t k = s.begin; k < s.begin + s.numbers; ++k) {
          const float left =
              number(reinterpret_cast<const X*>(left_row(b, r) + k / kPerUnit * b.unit_stride) +
                     k % kPerUnit);
          for (int64_t c = 0; c < columns; ++c) {
            sum[c] += left * numbers.of[codes[k / 2 * kFp8UnitBytes + 2 * slot(c) + k % 2]];
          }
        }
        load_scales(scale, b, column, columns, s.index);
        const float mine = b.left_scale == nullptr
                               ? 1.0F
                               : b.left_scale[r * b.left_scale_row + s.index * b.left_scale_block];
        for (int64_t c = 0; c < columns; ++c) total[c] += sum[c] * mine * scale[c];
      }
      Out* out = static_cast<Out*>(b.out) + r * b.out_stride + column;
      for (int64_t c = 0; c < columns; ++c) {
        store(out + c, {b.accumulate ? load(out + c).v + total[c] : total[c]});
      }
    }
  }
}

#else

constexpr int64_t kTotalsStride = kBlockPanels * kPanel;
constexpr int64_t kWideUnitBytes = kPanel * kUnitBytes;

// What is widened at a time stays in a core's second cache: so many numbers of the sum, in so many
// blocks.
#if defined(MINKE_TARGET_avx512)
constexpr int64_t kStageNumbers = 2 * kBlockUnits;
#else
constexpr int64_t kStageNumbers = 256;  // FP32, of both sides
#endif
constexpr int64_t kStageBlocks = kStageNumbers / kScaleBlock;

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
  int64_t panel_bytes;     // of codes, from a panel to the next
  const Block* blocks;
  int64_t count;            // of blocks
  bool first;               // stage: totals begin
  const float* left_scale;  // of the first row and block; null: 1
  int64_t left_scale_row, left_scale_block;
  const float* right_scale;  // [blocks, kTotalsStride]
  float* totals;
};

#if defined(MINKE_TARGET_avx512)

constexpr int kTileRows = 12;  // 24 sums, 2 of the right side, 6 left over of 32 registers
// So few rows widen codes in registers. As few as kFewRows alone would wait for their own sums, so
// they take several panels at once.
constexpr int kDirectRows = 8, kFewRows = 2;

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
const Magnitudes& magnitudes() {
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

void widen_units(bf16*, std::byte* to, const std::byte* codes, int64_t units) {
  const Widener widener(magnitudes());
  for (int64_t u = 0; u < units; ++u, codes += kFp8UnitBytes, to += kWideUnitBytes) {
    __m512i pairs[2];
    widener.widen(pairs, codes);
    _mm512_store_si512(to, pairs[0]);
    _mm512_store_si512(to + 64, pairs[1]);
  }
}

void widen_units(float*, std::byte* to, const std::byte* codes, int64_t units) {
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

template <int kNumbers>
inline __m512bh pair_at(const std::byte* left) {
  uint32_t pair = 0;
  __builtin_memcpy(&pair, left, kNumbers * sizeof(bf16));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(pair)));
}

template <int kNumbers, int kRows, int kVectors>
[[gnu::always_inline]] inline void add_pairs(Vec (&sum)[kRows][kVectors], int vector,
                                             const std::byte* left, int64_t row_stride,
                                             const __m512i (&right)[2]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const __m512bh a = pair_at<kNumbers>(left + r * row_stride);
    for (int v = 0; v < 2 && vector + v < kVectors; ++v) {
      sum[r][vector + v].v =
          _mm512_dpbf16_ps(sum[r][vector + v].v, a, reinterpret_cast<__m512bh>(right[v]));
    }
  }
}

#else

constexpr int kTileRows = 6;  // 12 sums, 2 of the right side, 2 left over of 16 registers
constexpr int kFewRows = 0, kDirectRows = 0;

// Codes to FP16 by a shift, which is 2^-8 of the number, and exact; then to FP32.
void widen_units(float*, std::byte* to, const std::byte* codes, int64_t units) {
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

#endif

template <typename X, int kRows, int kVectors>
[[gnu::always_inline]] inline void add_unit(Vec (&sum)[kRows][kVectors], const std::byte* left,
                                            int64_t row_stride, const std::byte* right) {
#if defined(MINKE_TARGET_avx512)
  if constexpr (sizeof(X) == sizeof(bf16)) {
    __m512i pairs[2];
    for (int v = 0; v < kVectors; ++v) pairs[v] = _mm512_load_si512(right + 64 * v);
    add_pairs<2>(sum, 0, left, row_stride, pairs);
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

// Sums of a block, scaled, go to the totals.
template <int kRows, int kVectors>
[[gnu::always_inline]] inline void promote(const Vec (&sum)[kRows][kVectors], const Tile& t,
                                           int64_t block) {
  const bool begin = t.first && block == 0;
  const float* scales = t.right_scale + block * kTotalsStride;
  const float* left = t.left_scale + block * t.left_scale_block;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const Vec mine = splat(t.left_scale == nullptr ? 1.0F : left[r * t.left_scale_row]);
    float* total = t.totals + r * kTotalsStride;
    for (int v = 0; v < kVectors; ++v) {
      const Vec scaled = sum[r][v] * mine, right = load(scales + v * kLanes);
      store(total + v * kLanes,
            begin ? scaled * right : fma(scaled, right, load(total + v * kLanes)));
    }
  }
}

// From widened units.
template <typename X, int kRows, int kVectors>
inline void tile_columns(const Tile& t) {
  const std::byte *left = t.left, *right = t.right;
  const int64_t row_stride = t.row_stride, unit_stride = t.unit_stride;
  for (int64_t i = 0; i < t.count; ++i) {
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
        add_pairs<1>(sum, 0, left, row_stride, pairs);
      }
    }
#endif
    promote(sum, t, i);
  }
}

template <typename X, int kRows>
void tile(const Tile& t, int64_t columns) {
  constexpr int kVectors = static_cast<int>(kPanel) / kLanes;
  if constexpr (kVectors == 2) {
    columns <= kLanes ? tile_columns<X, kRows, 1>(t) : tile_columns<X, kRows, 2>(t);
  } else {
    for (int64_t c = 0; c < columns; c += 2 * kLanes) {
      Tile part = t;
      part.right += c * kUnitBytes;
      part.right_scale += c;
      part.totals += c;
      columns - c <= kLanes ? tile_columns<X, kRows, 1>(part) : tile_columns<X, kRows, 2>(part);
    }
  }
}

template <typename X, int... kRowsLessOne>
void run_tile(const Tile& t, int64_t rows, int64_t columns,
              std::integer_sequence<int, kRowsLessOne...>) {
  static constexpr void (*kTiles[])(const Tile&, int64_t) = {tile<X, kRowsLessOne + 1>...};
  kTiles[rows - 1](t, columns);
}

#if defined(MINKE_TARGET_avx512)

// From codes, kPanels panels at once.
template <int kRows, int kPanels>
void direct_tile(const Tile& t) {
  constexpr int64_t kAhead = kScaleBlock / 2 * kFp8UnitBytes;  // what is fetched meanwhile
  const Widener widener(magnitudes());
  const std::byte *left = t.left, *right = t.right;
  const int64_t row_stride = t.row_stride, unit_stride = t.unit_stride, panel_bytes = t.panel_bytes;
  for (int64_t i = 0; i < t.count; ++i) {
    Vec sum[kRows][2 * kPanels] = {};
    const auto add = [&](auto numbers) __attribute__((always_inline)) {
      for (int p = 0; p < kPanels; ++p) {
        const std::byte* unit = right + p * panel_bytes;
        __builtin_prefetch(unit + kAhead);
        __m512i pairs[2];
        widener.widen(pairs, unit);
        add_pairs<numbers()>(sum, 2 * p, left, row_stride, pairs);
      }
    };
    for (int64_t u = 0; u < t.blocks[i].units; ++u) {
      add(std::integral_constant<int, 2>());
      left += unit_stride;
      right += kFp8UnitBytes;
    }
    if (t.blocks[i].half) add(std::integral_constant<int, 1>());
    promote(sum, t, i);
  }
}

template <int kPanels, int... kRowsLessOne>
void run_direct_tile(const Tile& t, int64_t rows, std::integer_sequence<int, kRowsLessOne...>) {
  static constexpr void (*kTiles[])(const Tile&) = {direct_tile<kRowsLessOne + 1, kPanels>...};
  kTiles[rows - 1](t);
}

void run_direct(const Tile& t, int64_t rows, int64_t columns) {
  if (columns == kTotalsStride && rows <= kFewRows) {
    return run_direct_tile<kBlockPanels>(t, rows, std::make_integer_sequence<int, kFewRows>());
  }
  for (int64_t c = 0; c < columns; c += kPanel) {
    Tile part = t;
    part.right += c / kPanel * t.panel_bytes;
    part.right_scale += c;
    part.totals += c;
    run_direct_tile<1>(part, rows, std::make_integer_sequence<int, kDirectRows>());
  }
}

#endif

// The left side of a block, over a stage.
struct Left {
  const std::byte* data;
  int64_t group_rows, group_stride, row_stride, unit_stride;  // as Fp8Block's
};

#if defined(MINKE_TARGET_avx2)

// Numbers [begin, begin + numbers) of each row of pairs, as FP32 one after the other.
struct WideLeft {
  static constexpr int64_t kStride = kStageNumbers + 16;  // rows of a power of two would share sets
  alignas(64) float data[kBlockRows * kStride];

  Left widen(const Fp8Block& b, int64_t begin, int64_t numbers) {
    for (int64_t r = 0; r < b.rows; ++r) {
      const std::byte* from = left_row(b, r) + begin / 2 * b.unit_stride;
      float* to = data + r * kStride;
      for (int64_t i = 0; i < numbers; i += 2, from += b.unit_stride, to += 2) {
        uint32_t pair = 0;
        __builtin_memcpy(&pair, from, i + 1 < numbers ? 4 : 2);
        const uint32_t wide[2] = {pair << 16, pair & ~0xffffU};
        __builtin_memcpy(to, wide, sizeof wide);
      }
    }
    return {reinterpret_cast<const std::byte*>(data), kBlockRows, 0, kStride * kUnitBytes,
            kUnitBytes};
  }
};

#endif

// Rows are cut evenly, so that no tile is so low that it starves the arithmetic.
template <typename Wide>
void run_rows(const Tile& all, const Left& left, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; row += left.group_rows) {
    const int64_t height = least(rows - row, left.group_rows);
    const int64_t tiles = (height + kTileRows - 1) / kTileRows;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t begin = height * i / tiles, end = height * (i + 1) / tiles;
      Tile t = all;
      t.left = left.data + row / left.group_rows * left.group_stride + begin * left.row_stride;
      if (t.left_scale != nullptr) t.left_scale += (row + begin) * t.left_scale_row;
      t.totals += (row + begin) * kTotalsStride;
      run_tile<Wide>(t, end - begin, columns, std::make_integer_sequence<int, kTileRows>());
    }
  }
}

template <typename Out>
void finish(const Fp8Block& b, const float* totals, int64_t column, int64_t columns) {
  for (int64_t r = 0; r < b.rows; ++r) {
    const float* total = totals + r * kTotalsStride;
    Out* out = static_cast<Out*>(b.out) + r * b.out_stride + column;
    for_each_vector(columns, [&](int64_t c, int n) {
      const Vec sum = load_n(total + c, n);
      store_n(out + c, b.accumulate ? load_n(out + c, n) + sum : sum, n);
    });
  }
}

template <typename X, typename Out>
void block(const Fp8Block& b) {
#if defined(MINKE_TARGET_avx2)
  using Wide = float;
  [[maybe_unused]] WideLeft wide_left;
#else
  using Wide = X;
#endif
  constexpr int64_t kPerUnit = kUnitBytes / static_cast<int64_t>(sizeof(X));
  constexpr int64_t kPerWideUnit = kUnitBytes / static_cast<int64_t>(sizeof(Wide));
  constexpr Wide* kWide = nullptr;
  alignas(64) float totals[kBlockRows * kTotalsStride];
  alignas(64) std::byte panel[kStageNumbers / kPerWideUnit * kWideUnitBytes];
  const int64_t panel_bytes = (b.k + 1) / 2 * kFp8UnitBytes;
  for (int64_t column = 0; column < b.cols; column += kTotalsStride) {
    const int64_t columns = least(b.cols - column, kTotalsStride);
    const std::byte* right = b.right + column / kPanel * panel_bytes;
    if (b.k == 0) __builtin_memset(totals, 0, sizeof totals);
    for (SumBlock s(b); s.begin < b.k;) {
      const int64_t begin = s.begin, index = s.index;
      alignas(64) float scales[kStageBlocks * kTotalsStride] = {};
      Block blocks[kStageBlocks];
      Tile t{};
      for (; t.count < kStageBlocks && s.begin < b.k; s.next(), ++t.count) {
        load_scales(scales + t.count * kTotalsStride, b, column, columns, s.index);
        blocks[t.count] = {s.numbers / kPerWideUnit, s.numbers % kPerWideUnit != 0};
      }
      const int64_t numbers = s.begin - begin;
      Left left{b.left + begin / kPerUnit * b.unit_stride, b.group_rows, b.group_stride,
                b.row_stride, b.unit_stride};
      t.blocks = blocks;
      t.first = begin == 0;
      t.left = left.data;
      if (b.left_scale != nullptr) t.left_scale = b.left_scale + index * b.left_scale_block;
      t.left_scale_row = b.left_scale_row;
      t.left_scale_block = b.left_scale_block;
      t.row_stride = left.row_stride;
      t.unit_stride = left.unit_stride;
      t.right_scale = scales;
      t.totals = totals;
      const std::byte* codes = right + begin / 2 * kFp8UnitBytes;
#if defined(MINKE_TARGET_avx512)
      if constexpr (sizeof(X) == sizeof(bf16)) {
        if (b.rows <= kDirectRows) {
          t.right = codes;
          t.panel_bytes = panel_bytes;
          run_direct(t, b.rows, columns);
          continue;
        }
      }
#else
      if constexpr (sizeof(X) == sizeof(bf16)) {
        left = wide_left.widen(b, begin, numbers);
        t.row_stride = left.row_stride;
        t.unit_stride = left.unit_stride;
      }
#endif
      t.right = panel;
      for (int64_t c = 0; c < columns; c += kPanel) {
        widen_units(kWide, panel, codes + c / kPanel * panel_bytes, (numbers + 1) / 2);
        t.right_scale = scales + c;
        t.totals = totals + c;
        run_rows<Wide>(t, left, b.rows, least(columns - c, kPanel));
      }
    }
    finish<Out>(b, totals, column, columns);
  }
}

#endif

// Codes of `columns` columns from unit `begin` on, one by one.
void pack(std::byte* panel, const Matrix& codes, int64_t begin, int64_t columns, int64_t numbers,
          int64_t column_stride, int64_t number_stride) {
  const auto* from = static_cast<const uint8_t*>(codes.data);
  auto* to = reinterpret_cast<uint8_t*>(panel) + begin * kFp8UnitBytes;
  for (int64_t k = 2 * begin; k < numbers; k += 2, to += kFp8UnitBytes) {
    for (int64_t c = 0; c < kPanel; ++c) {
      for (int64_t i = 0; i < 2; ++i) {
        to[2 * slot(c) + i] =
            c < columns && k + i < numbers ? from[c * column_stride + (k + i) * number_stride] : 0;
      }
    }
  }
}

#if defined(MINKE_TARGET_scalar)

void pack_rows(std::byte* panel, const Matrix& codes) {
  pack(panel, codes, 0, codes.rows, codes.cols, codes.stride, 1);
}
void pack_columns(std::byte* panel, const Matrix& codes) {
  pack(panel, codes, 0, codes.cols, codes.rows, 1, codes.stride);
}

#else

inline __m128i load_16(const uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline void store_16(std::byte* p, __m128i x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
}

// Columns 4 g to 4 g + 3 and 16 + 4 g to 19 + 4 g are neighbours in a unit: eight rows of eight
// pairs are transposed at a time.
void pack_rows(std::byte* panel, const Matrix& codes) {
  const int64_t units = codes.cols / 16 * 8;
  for (int64_t g = 0; g < 4; ++g) {
    const uint8_t* rows[8];
    for (int64_t i = 0; i < 8; ++i) {
      const int64_t c = i / 4 * 16 + 4 * g + i % 4;
      rows[i] = c < codes.rows ? row_of<uint8_t>(codes, c) : nullptr;
    }
    for (int64_t u = 0; u < units; u += 8) {
      __m128i x[8], y[8];
      for (int i = 0; i < 8; ++i) {
        x[i] = rows[i] != nullptr ? load_16(rows[i] + 2 * u) : _mm_setzero_si128();
      }
      for (int i = 0; i < 4; ++i) {
        y[i] = _mm_unpacklo_epi16(x[i], x[i + 4]);
        y[i + 4] = _mm_unpackhi_epi16(x[i], x[i + 4]);
      }
      for (int i = 0; i < 2; ++i) {
        x[i] = _mm_unpacklo_epi16(y[i], y[i + 2]);
        x[i + 2] = _mm_unpackhi_epi16(y[i], y[i + 2]);
        x[i + 4] = _mm_unpacklo_epi16(y[i + 4], y[i + 6]);
        x[i + 6] = _mm_unpackhi_epi16(y[i + 4], y[i + 6]);
      }
      std::byte* to = panel + u * kFp8UnitBytes + 16 * g;
      for (int i = 0; i < 8; i += 2) {
        store_16(to, _mm_unpacklo_epi16(x[i], x[i + 1]));
        store_16(to + kFp8UnitBytes, _mm_unpackhi_epi16(x[i], x[i + 1]));
        to += 2 * kFp8UnitBytes;
      }
    }
  }
  pack(panel, codes, units, codes.rows, codes.cols, codes.stride, 1);
}

void pack_columns(std::byte* panel, const Matrix& codes) {
  const int64_t units = codes.cols == kPanel ? codes.rows / 2 : 0;
  const auto* first = static_cast<const uint8_t*>(codes.data);
  for (int64_t u = 0; u < units; ++u, first += 2 * codes.stride) {
    store_unit(panel + u * kFp8UnitBytes, first, first + codes.stride);
  }
  pack(panel, codes, units, codes.cols, codes.rows, 1, codes.stride);
}

#endif

}  // namespace

const Fp8Kernels& fp8_kernels() {
  static constexpr Fp8Kernels kTable{
      {{block<float, float>, block<float, bf16>}, {block<bf16, float>, block<bf16, bf16>}},
      pack_rows,
      pack_columns};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
