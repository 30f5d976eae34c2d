#include "ops/kernels/permute.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

constexpr int64_t kLineBytes = 64;

// A row begins where no processor expects it, so each is asked for while the one before is read.
template <bool kStream, typename Y, typename X>
void gather_row(Y* y, const X* x, const X* next, int64_t D) {
  constexpr int64_t kPiece = kLineBytes / sizeof(X);
  int64_t i = 0;
  for (; i + kPiece <= D; i += kPiece) {
    prefetch(next + i);
    if constexpr (!__is_same(Y, X)) {
      for (int64_t j = i; j < i + kPiece; j += kLanes) store(y + j, load(x + j));
    } else if constexpr (kStream) {
      stream_line(y + i, x + i);
    } else {
      __builtin_memcpy(y + i, x + i, kLineBytes);
    }
  }
  if constexpr (__is_same(Y, X)) {
    __builtin_memcpy(y + i, x + i, static_cast<size_t>(D - i) * sizeof(X));
  } else {
    for (; i < D; i += kLanes) {
      const int n = D - i < kLanes ? static_cast<int>(D - i) : kLanes;
      store_n(y + i, load_n(x + i, n), n);
    }
  }
}

template <typename Y, typename X>
void gather(const Matrix& y_RD, bool streams, const Matrix& x_TD, const int32_t* row, int64_t begin,
            int64_t end) {
  const auto run = streams ? gather_row<true, Y, X> : gather_row<false, Y, X>;
  for (int64_t r = begin; r < end; ++r) {
    const X* x = row_of<X>(x_TD, row[r]);
    run(row_of<Y>(y_RD, r), x, r + 1 < y_RD.rows ? row_of<X>(x_TD, row[r + 1]) : x, y_RD.cols);
  }
  if (streams) end_streams();
}

enum class Write : uint8_t { kStore, kStream, kAdd };

// Sums of so many numbers wait in the first cache, beside two rows that are added and two that are
// asked for: memory serves few rows at once better than many.
constexpr int64_t kPiece = 2048;

// The first rows begin the sums, the last ones' go to y.
template <Write kWrite, int kRows, typename Y, typename X>
MINKE_FLATTEN void add_rows(Y* y, float* sums, bool first, bool last, const X* const* x,
                            const X* const* ahead, int64_t count) {
  for_each_in_step(count, [&](int64_t i, auto n) {
    decltype(load_n(sums, n)) sum = zero();
    if (!first) sum = load_n(sums + i, n);
    for (int k = 0; k < kRows; ++k) {
      prefetch_n(ahead[k] + i, n);
      sum = sum + load_n(x[k] + i, n);
    }
    if (!last) return store_n(sums + i, sum, n);
    if constexpr (kWrite == Write::kAdd) sum = load_n(y + i, n) + sum;
    write_n<kWrite == Write::kStream>(y + i, sum, n);
  });
}

// Short rows: all at once, since two of them are read before memory answers for the next.
template <Write kWrite, typename Y, typename X>
void combine_short_row(Y* y, const Matrix& x_RD, const int32_t* rows, const int32_t* next,
                       int64_t choices, int64_t D) {
  for_each_in_step(D, [&](int64_t i, auto n) {
    decltype(load_n(y, n)) sum = zero();
    for (int64_t k = 0; k < choices; ++k) {
      prefetch_n(row_of<X>(x_RD, next[k]) + i, n);
      sum = sum + load_n(row_of<X>(x_RD, rows[k]) + i, n);
    }
    if constexpr (kWrite == Write::kAdd) sum = load_n(y + i, n) + sum;
    write_n<kWrite == Write::kStream>(y + i, sum, n);
  });
}

template <Write kWrite, typename Y, typename X>
void combine_row(Y* y, const Matrix& x_RD, const int32_t* rows, const int32_t* next,
                 int64_t choices, int64_t D) {
  if (D < kPiece) return combine_short_row<kWrite, Y, X>(y, x_RD, rows, next, choices, D);
  alignas(kLineBytes) float sums[kPiece];
  for (int64_t begin = 0; begin < D; begin += kPiece) {
    const bool ends = D - begin <= kPiece;
    const auto row_ahead = [&](int64_t k) {
      if (k < choices) return row_of<X>(x_RD, rows[k]) + begin;
      k %= 2;
      return ends ? row_of<X>(x_RD, next[k]) : row_of<X>(x_RD, rows[k]) + begin + kPiece;
    };
    for (int64_t k = 0; k < choices; k += 2) {
      const bool pair = k + 1 < choices;
      const X* const x[] = {row_of<X>(x_RD, rows[k]) + begin,
                            row_of<X>(x_RD, rows[pair ? k + 1 : k]) + begin};
      const X* const ahead[] = {row_ahead(k + 2), pair ? row_ahead(k + 3) : nullptr};
      const auto add = pair ? add_rows<kWrite, 2, Y, X> : add_rows<kWrite, 1, Y, X>;
      add(y + begin, sums, k == 0, k + 2 >= choices, x, ahead, ends ? D - begin : kPiece);
    }
  }
}

template <typename Y, typename X>
void combine(const Matrix& y_TD, bool accumulate, bool streams, const Matrix& x_RD,
             const int32_t* row, int64_t choices, int64_t begin, int64_t end) {
  const auto run = accumulate ? combine_row<Write::kAdd, Y, X>
                   : streams  ? combine_row<Write::kStream, Y, X>
                              : combine_row<Write::kStore, Y, X>;
  for (int64_t t = begin; t < end; ++t) {
    const int32_t* rows = row + t * choices;
    run(row_of<Y>(y_TD, t), x_RD, rows, t + 1 < y_TD.rows ? rows + choices : rows, choices,
        y_TD.cols);
  }
  if (streams) end_streams();
}

}  // namespace

const PermuteKernels& permute_kernels() {
  static constexpr PermuteKernels kTable{
      {{gather<float, float>, gather<float, bf16>}, {gather<bf16, float>, gather<bf16, bf16>}},
      {{combine<float, float>, combine<float, bf16>}, {combine<bf16, float>, combine<bf16, bf16>}}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
