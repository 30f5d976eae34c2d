#include "ops/kernels/matmul_fp8.h"

#include "ops/kernels/fp8_unit.h"
#include "ops/kernels/matmul.h"
#include "ops/kernels/simd.h"
#if !defined(MINKE_TARGET_scalar)
#include "ops/kernels/matmul_fp8_tile.h"
#endif

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

[[maybe_unused]] const std::byte* left_row(const Fp8Block& b, int64_t row) {
  return b.left + row / b.group_rows * b.group_stride + row % b.group_rows * b.row_stride;
}

// Walks over the blocks of the sum.
struct SumBlock {
  int64_t segment, k, begin = 0, numbers = 0, index = 0;
  explicit SumBlock(const Fp8Block& b) : segment(b.segment), k(b.k), end_(b.segment) { measure(); }
  void next() {
    begin += numbers;
    if (begin == end_) end_ += segment;
    ++index;
    measure();
  }

 private:
  int64_t end_;  // of the segment
  void measure() { numbers = least(least(end_, k) - begin, kScaleBlock); }
};

// The right side's scales of the panels from `column` on, at `count` blocks of the sum from `block`
// on, `stride` numbers from one to the next; zero beyond the last of `columns`, to the end of its
// panel.
void load_scales(float* to, int64_t stride, const Fp8Block& b, int64_t column, int64_t columns,
                 int64_t block, int64_t count) {
  const int64_t begin = b.first_column + column;
  const float* from = b.right_scale + block * b.right_scale_block;
  for (int64_t i = 0; i < count; ++i) {
    float* row = to + i * stride;
    for (int64_t c = columns; c % kPanel != 0; ++c) row[c] = 0;
    if (b.right_tile > 1) continue;
    for (int64_t c = 0; c < columns; ++c) {
      row[c] = from[i * b.right_scale_block + (begin + c) * b.right_scale_tile];
    }
  }
  for (int64_t c = 0; b.right_tile > 1 && c < columns;) {
    const int64_t tile = (begin + c) / b.right_tile;
    const int64_t n = least(columns - c, (tile + 1) * b.right_tile - begin - c);
    for (int64_t i = 0; i < count; ++i) {
      float* row = to + i * stride + c;
      const Vec scale = splat(from[tile * b.right_scale_tile + i * b.right_scale_block]);
      for_each_vector(n, [&](int64_t j, int lanes) { store_n(row + j, scale, lanes); });
    }
    c += n;
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
  const int64_t panel_bytes =
      (b.k + 1) / 2 * (b.right_is_codes ? kFp8UnitBytes : kPanel * kUnitBytes);
  for (int64_t column = 0; column < b.cols; column += kPanel) {
    const std::byte* panel = b.right + column / kPanel * panel_bytes;
    const auto* codes = reinterpret_cast<const uint8_t*>(panel);
    const auto* pairs = reinterpret_cast<const bf16*>(panel);
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
            const float right = b.right_is_codes
                                    ? numbers.of[codes[k / 2 * kFp8UnitBytes + 2 * slot(c) + k % 2]]
                                    : number(pairs + 2 * (k / 2 * kPanel + c) + k % 2);
            sum[c] += left * right;
          }
        }
        load_scales(scale, 0, b, column, columns, s.index, 1);
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

// Rows are cut evenly, so that no tile is so low that it starves the arithmetic. Each of the first
// tiles fetches its share of the `bytes` at t.ahead, which are used next. `t` is changed rather
// than copied: a copy of what was just written waits for it to arrive.
template <typename Wide, typename Out>
void run_rows(Tile& t, const Left& left, int64_t rows, int64_t columns, int64_t bytes) {
  constexpr int64_t kShares = 4;
  const float* left_scale = t.left_scale;
  const std::byte* ahead = t.ahead;
  float* totals = t.totals;
  Out* out = static_cast<Out*>(t.out);
  for (int64_t row = 0; row < rows; row += left.group_rows) {
    const int64_t height = least(rows - row, left.group_rows);
    const int64_t tiles = (height + kTileRows - 1) / kTileRows;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t begin = height * i / tiles, end = height * (i + 1) / tiles;
      const int64_t first = row + begin;
      t.left = left.data + row / left.group_rows * left.group_stride + begin * left.row_stride;
      if (left_scale != nullptr) t.left_scale = left_scale + first * t.left_scale_row;
      t.totals = totals + first * kTotalsStride;
      if (out != nullptr) t.out = out + first * t.out_stride;
      const int64_t shares = least(tiles, kShares);
      t.ahead_bytes = row == 0 && i < shares ? bytes / t.count / shares : 0;
      t.ahead = ahead + t.ahead_bytes * t.count * i;
      run_tile<Wide, Out>(t, end - begin, columns, std::make_integer_sequence<int, kTileRows>());
    }
  }
  t.left_scale = left_scale;
}

#if defined(MINKE_TARGET_avx512)

// Rows in tiles of even height, of which the first reads codes from memory, `bytes` of them. One
// alone asks for them so far ahead, further than processors do by themselves; of several each asks
// for its share of as many, a whole stage ahead whatever this one's size, so that none is left out.
void run_direct_rows(Tile& t, int64_t rows, int64_t bytes) {
  constexpr int64_t kAhead = 8192, kStageBytes = kStageNumbers / 2 * kFp8UnitBytes;
  const std::byte* left = t.left;
  const float* left_scale = t.left_scale;
  float* totals = t.totals;
  if (rows <= kDirectRows) {
    t.ahead_bytes = kFp8UnitBytes;
    t.ahead = t.right + kAhead;
    return run_direct(t, rows, std::make_integer_sequence<int, kDirectRows>());
  }
  const int64_t height = rows % kEvenRows == 0 ? kEvenRows : kDirectRows;
  const int64_t tiles = (rows + height - 1) / height;
  t.ahead_bytes = (kFp8UnitBytes + tiles - 1) / tiles;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = rows * i / tiles, end = rows * (i + 1) / tiles;
    t.left = left + begin * t.row_stride;
    if (left_scale != nullptr) t.left_scale = left_scale + begin * t.left_scale_row;
    t.totals = totals + begin * kTotalsStride;
    t.ahead = t.right + kStageBytes + bytes * i / tiles;
    run_direct(t, end - begin, std::make_integer_sequence<int, kDirectRows>());
  }
}

#endif

// Columns from `from` on, whose totals are all in memory.
template <typename Out>
void finish(const Fp8Block& b, const float* totals, int64_t column, int64_t from, int64_t columns) {
  for (int64_t r = 0; r < b.rows && from < columns; ++r) {
    const float* total = totals + r * kTotalsStride + from;
    Out* out = static_cast<Out*>(b.out) + r * b.out_stride + column + from;
    for_each_vector(columns - from, [&](int64_t c, int n) {
      const Vec sum = load_n(total + c, n);
      store_n(out + c, b.accumulate ? load_n(out + c, n) + sum : sum, n);
    });
  }
}

// Some blocks of the sum that tiles do at a time.
struct Stage {
  int64_t index = 0;  // of the first
  int64_t count = 0, numbers = 0;
  Block blocks[kMostStageBlocks];

  template <int64_t kPerUnit>
  void take(SumBlock& from, int64_t most) {
    const int64_t begin = from.begin;
    index = from.index;
    for (count = 0; count < most && from.begin < from.k; from.next(), ++count) {
      blocks[count] = {from.numbers / kPerUnit, from.numbers % kPerUnit != 0};
    }
    numbers = from.begin - begin;
  }
};

// Units of a panel in the left side's format: in `panel`, unless they are it already.
template <typename Wide>
const std::byte* wide_panel(Wide* format, std::byte* panel, const std::byte* units, int64_t count,
                            bool codes) {
  if (codes) {
    widen_units(format, panel, units, count);
    return panel;
  }
#if defined(MINKE_TARGET_avx2)
  widen_pairs(reinterpret_cast<float*>(panel), units, count);
  return panel;
#else
  return units;
#endif
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
  const int64_t unit_bytes = b.right_is_codes ? kFp8UnitBytes : kWideUnitBytes;
  const int64_t panel_bytes = (b.k + 1) / 2 * unit_bytes;
#if defined(MINKE_TARGET_avx512)
  const bool direct = sizeof(X) == sizeof(bf16) && b.right_is_codes;
  // One tile leaves nothing in a cache for others, so nothing ends its run of memory early.
  const int64_t stage_blocks = direct && b.rows <= kDirectRows ? kMostStageBlocks : kStageBlocks;
#else
  constexpr bool direct = false;
  constexpr int64_t stage_blocks = kStageBlocks;
#endif
  const int64_t step = direct ? kPanel : kTotalsStride;
  const bool by_tiles = direct && b.right_tile % kPanel == 0;
  SumBlock s(b);
  Stage stage;
  // Those of a tile serve all its panels.
  alignas(64) float scales[kMostStageBlocks * kTotalsStride];
  for (int64_t column = 0; column < b.cols; column += step) {
    const int64_t columns = least(b.cols - column, step);
    const std::byte* right = b.right + column / kPanel * panel_bytes;
    if (b.k == 0) __builtin_memset(totals, 0, sizeof totals);
    for (int64_t begin = 0, numbers; begin < b.k; begin += numbers) {
      if (stage.numbers != b.k) {  // a sum of one stage is measured once
        if (begin == 0) s = SumBlock(b);
        stage.take<kPerWideUnit>(s, stage_blocks);
      }
      const int64_t index = stage.index, end = begin + stage.numbers;
      numbers = stage.numbers;
      const bool same_tile = by_tiles && stage.numbers == b.k && column > 0 && columns == kPanel &&
                             (b.first_column + column) % b.right_tile != 0;
      if (!same_tile) load_scales(scales, kTotalsStride, b, column, columns, index, stage.count);
      Tile t{};
      t.count = stage.count;
      Left left{b.left + begin / kPerUnit * b.unit_stride, b.group_rows, b.group_stride,
                b.row_stride, b.unit_stride};
      t.blocks = stage.blocks;
      t.first = begin == 0;
      t.left = left.data;
      if (b.left_scale != nullptr) t.left_scale = b.left_scale + index * b.left_scale_block;
      t.left_scale_row = b.left_scale_row;
      t.left_scale_block = b.left_scale_block;
      t.row_stride = left.row_stride;
      t.unit_stride = left.unit_stride;
      t.right_scale = scales;
      t.totals = totals;
      t.out_stride = b.out_stride;
      t.accumulate = b.accumulate;
      const std::byte* units = right + begin / 2 * unit_bytes;
#if defined(MINKE_TARGET_avx512)
      if constexpr (sizeof(X) == sizeof(bf16)) {
        if (direct) {
          t.right = units;
          run_direct_rows(t, b.rows, (numbers + 1) / 2 * kFp8UnitBytes);
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
      for (int64_t c = 0; c < columns; c += kPanel) {
        t.right = wide_panel(kWide, panel, units + c / kPanel * panel_bytes, (numbers + 1) / 2,
                             b.right_is_codes);
        t.right_scale = scales + c;
        t.totals = totals + c;
        t.ahead = c + kPanel < columns ? units + (c / kPanel + 1) * panel_bytes
                  : end < b.k          ? right + end / 2 * unit_bytes
                                       : right + kBlockPanels * panel_bytes;
        const bool ends = end == b.k && c < whole_columns(columns);
        t.out = ends ? static_cast<Out*>(b.out) + column + c : nullptr;
        run_rows<Wide, Out>(t, left, b.rows, least(columns - c, kPanel), numbers / 2 * unit_bytes);
      }
    }
    finish<Out>(b, totals, column, direct || b.k == 0 ? 0 : whole_columns(columns), columns);
  }
}

#endif

}  // namespace

const Fp8Kernels& fp8_kernels() {
  static constexpr Fp8Kernels kTable{
      {{block<float, float>, block<float, bf16>}, {block<bf16, float>, block<bf16, bf16>}}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
