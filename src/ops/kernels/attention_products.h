// What the kernels of attention share: products with panels, and the softmax of a row of scores.
// To be included by files of ops/kernels only.
#pragma once

#include "ops/kernels/attention.h"
#include "ops/kernels/matmul.h"
#include "ops/kernels/matmul_pack.h"
#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {

template <typename X>
inline constexpr int64_t kUnitNumbers = kUnitBytes / static_cast<int64_t>(sizeof(X));
template <typename X>
inline constexpr int kFormat = sizeof(X) == sizeof(bf16) ? 1 : 0;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Panels (kernels/matmul.h) whose sums are `length` numbers long.
template <typename X>
struct Panels {
  std::byte* data;
  int64_t length;
  // The panel of `column`, from number `from` of the sum on (the first of a unit).
  std::byte* at(int64_t column, int64_t from) const {
    const int64_t units = (length + kUnitNumbers<X> - 1) / kUnitNumbers<X>;
    return data + (column / kPanel * units + from / kUnitNumbers<X>)*kPanel * kUnitBytes;
  }
  // Columns are the rows of `from`.
  void pack_rows(const Matrix& from) const {
    for (int64_t r = 0; r < from.rows; r += kPanel) {
      const int64_t n = least(kPanel, from.rows - r);
      pack_kernels().rows[kFormat<X>][kFormat<X>](
          at(r, 0), {row_of<X>(from, r), from.dtype, n, from.cols, from.stride});
    }
  }
  // Columns are the columns of `from`.
  void pack_columns(const Matrix& from) const {
    for (int64_t c = 0; c < from.cols; c += kPanel) {
      const int64_t n = least(kPanel, from.cols - c);
      pack_kernels().columns[kFormat<X>][kFormat<X>](
          at(c, 0), {row_of<X>(from, 0) + c, from.dtype, from.rows, n, from.stride});
    }
  }
};

// Rows of a left operand: number i of a row's sum is part of its unit i / kUnitNumbers.
struct Left {
  const void* data;
  int64_t row_stride, unit_stride;  // bytes
};
// Rows of X, `stride` numbers apart.
template <typename X>
inline Left rows_of(const void* data, int64_t stride) {
  return {data, stride * static_cast<int64_t>(sizeof(X)), kUnitBytes};
}

// out[rows, cols] (+)= left[rows, k] . numbers [from, from + k) of the columns from `column` (the
// first of a panel) on.
template <typename X>
inline void multiply(float* out, int64_t out_stride, const Left& left, int64_t rows,
                     const Panels<X>& right, int64_t column, int64_t cols, int64_t from, int64_t k,
                     bool accumulate) {
  for (int64_t r = 0; r < rows; r += kBlockRows) {
    for (int64_t c = 0; c < cols; c += kPanel) {
      MatmulBlock block{};
      block.left = static_cast<const std::byte*>(left.data) + r * left.row_stride;
      block.group_rows = kBlockRows;
      block.row_stride = left.row_stride;
      block.unit_stride = left.unit_stride;
      block.right = right.at(column + c, from);
      block.rows = least(kBlockRows, rows - r);
      block.cols = least(kPanel, cols - c);
      block.k = k;
      block.out = out + r * out_stride + c;
      block.out_stride = out_stride;
      block.accumulate = accumulate;
      matmul_kernels().block[kFormat<X>][0](block);
    }
  }
}

struct Range {
  int64_t begin, end;
  bool empty() const { return begin >= end; }
};

// Queries [query, query + queries) of a head beside its keys [key, key + keys).
struct ScoreBlock {
  const int32_t* first;
  int64_t query, queries, key, keys;

  // The keys of the block that query r of it sees; neither end decreases with r.
  Range seen_by(int64_t r) const {
    const int64_t from = first == nullptr ? 0 : first[query + r];
    return {most(0, least(keys, from - key)), most(0, least(keys, query + r + 1 - key))};
  }
  // The queries of the block that see any key of its [k, k + n).
  Range that_see(int64_t k, int64_t n) const {
    Range rows{most(0, key + k - query), queries};
    while (first != nullptr && !rows.empty() && first[query + rows.end - 1] >= key + k + n) {
      --rows.end;
    }
    return rows;
  }
};

// Cuts `rows` in groups of kPanel, joins neighbours whose range is the same, and calls body(first
// row, rows, range) for those whose range is not empty. Ranges begin at a whole unit.
template <typename RangeOf, typename Body>
inline void for_each_group(int64_t rows, RangeOf&& range_of, Body&& body) {
  Range range{0, 0};
  int64_t begin = 0;
  const auto finish = [&](int64_t end) {
    if (!range.empty()) body(begin, end - begin, range);
  };
  for (int64_t r = 0; r < rows; r += kPanel) {
    Range next = range_of(r, least(kPanel, rows - r));
    next.begin -= next.begin % 2;
    if (next.begin == range.begin && next.end == range.end) continue;
    finish(r);
    range = next;
    begin = r;
  }
  finish(rows);
}

template <typename X>
inline void fill_zero(X* x, int64_t n) {
  if (n > 0) __builtin_memset(static_cast<void*>(x), 0, static_cast<size_t>(n) * sizeof(X));
}

// Operands that the next product reads. VCVTNEPS2BF16 rounds to nearest even and takes subnormal
// numbers as zero, as VDPBF16PS would anyway.
inline void store_operand(float* p, Vec a, int n) { store_n(p, a, n); }
inline void store_operand(bf16* p, Vec a, int n) {
#if defined(MINKE_TARGET_avx512)
  const auto codes = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v));
  if (n == kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), codes);
  } else {
    _mm256_mask_storeu_epi16(p, lanes(n), codes);
  }
#else
  store_n(p, a, n);
#endif
}

inline void store_operand(float* p, const Wide& a, InStep) { store(p, a); }
inline void store_operand(bf16* p, const Wide& a, InStep) {
  for (int j = 0; j < Wide::kVectors; ++j) store_operand(p + j * kLanes, a.part[j], kLanes);
}

// Operands of two rows: pairs a[i], b[i] side by side, and where rows are wanted, a and b too.
inline void store_pairs(bf16* pairs, Vec a, Vec b, bf16* row_a = nullptr, bf16* row_b = nullptr) {
#if defined(MINKE_TARGET_avx512)
  const auto codes = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.v, a.v));
  // Word 2 i is a's i, word 2 i + 1 is b's.
  const __m512i first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(codes)),
                second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(codes, 1));
  _mm512_storeu_si512(pairs, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
  if (row_a == nullptr) return;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(row_a), _mm512_castsi512_si256(codes));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(row_b), _mm512_extracti64x4_epi64(codes, 1));
#else
#if defined(MINKE_TARGET_avx2)
  const __m256i first = _mm256_cvtepu16_epi32(to_bf16(a)),
                second = _mm256_cvtepu16_epi32(to_bf16(b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs),
                      _mm256_or_si256(first, _mm256_slli_epi32(second, 16)));
#else
  store(pairs, a);
  store(pairs + 1, b);
#endif
  if (row_a == nullptr) return;
  store(row_a, a);
  store(row_b, b);
#endif
}

// A row of online softmax: the largest score so far, and the sum of e^(score - top).
struct SoftmaxRow {
  float top, sum;
};

// p = e^(scale * score - top) over `keys` (not none), with the top of all that was seen. Returns
// the factor that brings what was summed before to the new top.
template <typename X>
inline float softmax_row(X* p, const float* scores, int64_t keys, float scale, SoftmaxRow& row) {
  const float here = max_vectors(keys, scores) * scale;
  const float top = here > row.top ? here : row.top;
  const Vec minus = splat(-top), factor = splat(scale);
  const float sum = sum_vectors(keys, [&](int64_t i, auto n) {
    const auto e = exp(fma(load_n(scores + i, n), factor, minus));
    store_operand(p + i, e, n);
    return keep_n(e, n);
  });
  const float shrink =
      row.top == top || row.sum == 0 ? 1.0F : reduce_max(exp(splat(row.top - top)));
  row.sum = row.sum * shrink + sum;
  row.top = top;
  return shrink;
}

inline void multiply_row(float* x, int64_t n, float factor) {
  for_each_vector(n, [&](int64_t i, int count) {
    store_n(x + i, load_n(x + i, count) * splat(factor), count);
  });
}

}  // namespace minke::ops::kernels::MINKE_TARGET
