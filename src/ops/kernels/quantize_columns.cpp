// Tiles of 128x1: what the gradient of a weight reads of either side.
#include <utility>

#include "ops/kernels/e4m3.h"
#include "ops/kernels/matmul.h"
#include "ops/kernels/quantize.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

constexpr int kVectors = static_cast<int>(kPanel) / kLanes;

// A vector of a row; zero beyond the last column.
template <typename X>
inline Vec value(const QuantizeColumns& q, int64_t r, int v) {
  const int64_t rest = q.x.cols - v * kLanes;
  const int lanes = rest >= kLanes ? kLanes : rest > 0 ? static_cast<int>(rest) : 0;
  const X* row = row_of<X>(q.x, r) + v * kLanes;
  if constexpr (sizeof(X) == 1) {
    if (lanes == 0) return zero();
    return numbers_of(row, lanes) * splat(q.row_scale[r * q.row_scale_stride]);
  } else {
    return load_n(row, lanes);
  }
}

// The largest magnitude of each column, as bits.
template <typename X>
void measure(Bits (&top)[kVectors], const QuantizeColumns& q) {
  for (Bits& t : top) t = all(0);
  for (int64_t r = 0; r < q.x.rows; ++r) {
    prefetch(row_of<X>(q.x, r) + kPanel);  // the next panel's, to which rows are no stream
    for (int v = 0; v < kVectors; ++v) top[v] = larger(top[v], size_of_each(value<X>(q, r, v)));
  }
}
#if !defined(MINKE_TARGET_scalar)
// Of a whole panel of BF16: two columns in each number, as they lie in memory.
void measure_pairs(Bits (&top)[kVectors], const QuantizeColumns& q) {
  constexpr int kPairs = kVectors / 2;
  Bits pairs[kPairs];
  for (Bits& p : pairs) p = all(0);
  for (int64_t r = 0; r < q.x.rows; ++r) {
    const bf16* row = row_of<bf16>(q.x, r);
    prefetch(row + kPanel);
    for (int p = 0; p < kPairs; ++p) {
      pairs[p] = larger_halves(pairs[p], both(load_pairs(row + 2 * p * kLanes), all(0x7fff7fff)));
    }
  }
  bf16 columns[kPanel];
  for (int p = 0; p < kPairs; ++p) store_pairs(columns + 2 * p * kLanes, pairs[p]);
  for (int v = 0; v < kVectors; ++v) top[v] = bits_of(load(columns + v * kLanes));
}
#endif

template <typename X, Division kHow>
inline void put_pair(const QuantizeColumns& q, int64_t r, int v, const Quotient<kHow>& by,
                     std::byte* to) {
  const Vec first = rounded(by, value<X>(q, r, v));
  const Vec second = r + 1 < q.x.rows ? rounded(by, value<X>(q, r + 1, v)) : zero();
  store_pairs(to + v * kLanes * kUnitBytes, joined(first, second));
}

template <typename X, Division kHow, int... kVector>
void put_panel(const QuantizeColumns& q, const Vec (&scale)[kVectors],
               std::integer_sequence<int, kVector...>) {
  const Quotient<kHow> by[kVectors] = {Quotient<kHow>(scale[kVector])...};
  std::byte* to = q.panel;
  for (int64_t r = 0; r < q.x.rows; r += 2, to += kPanel * kUnitBytes) {
    (put_pair<X, kHow>(q, r, kVector, by[kVector], to), ...);
  }
}

// Columns that are not finite throughout become zeros.
void clear(const QuantizeColumns& q, int64_t column) {
  for (int64_t r = 0; r < q.x.rows; r += 2) {
    __builtin_memset(q.panel + (r / 2 * kPanel + column) * kUnitBytes, 0, kUnitBytes);
  }
}

template <typename X>
void quantize_columns(const QuantizeColumns& q) {
  Bits top[kVectors];
  Vec scale[kVectors];
#if !defined(MINKE_TARGET_scalar)
  const bool pairs = sizeof(X) == sizeof(bf16) && q.x.cols == kPanel;
  pairs ? measure_pairs(top, q) : measure<X>(top, q);
#else
  measure<X>(top, q);
#endif
  float scales[kPanel], smallest = 1, largest = 1;
  for (int v = 0; v < kVectors; ++v) {
    scale[v] = scales_of(top[v], q.power_of_two);
    store(scales + v * kLanes, scale[v]);
  }
  for (int64_t c = 0; c < kPanel && c < q.x.cols; ++c) {
    q.scale[c] = scales[c];
    smallest = scales[c] < smallest ? scales[c] : smallest;
    largest = scales[c] > largest ? scales[c] : largest;
  }
  with_division(division_by<X>(smallest, largest, q.power_of_two), [&](auto how) {
    put_panel<X, how()>(q, scale, std::make_integer_sequence<int, kVectors>());
  });
  for (int64_t c = 0; c < kPanel && c < q.x.cols; ++c) {
    if (scales[c] != scales[c]) clear(q, c);
  }
}

}  // namespace

const QuantizeColumnsKernels& quantize_columns_kernels() {
  static constexpr QuantizeColumnsKernels kTable{
      {quantize_columns<float>, quantize_columns<bf16>, quantize_columns<uint8_t>}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
