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

template <Division kHow>
struct Columns {
  Quotient<kHow> quotient;
  Bits kept;  // none of columns that are not finite throughout: they become zeros
};

template <typename X, Division kHow>
inline void put_pair(const QuantizeColumns& q, int64_t r, int v, const Columns<kHow>& columns,
                     std::byte* to) {
  const Vec first = rounded(columns.quotient(value<X>(q, r, v)));
  const Vec second = r + 1 < q.x.rows ? rounded(columns.quotient(value<X>(q, r + 1, v))) : zero();
  store_pairs(to + v * kLanes * kUnitBytes, both(joined(first, second), columns.kept));
}

template <typename X, Division kHow, int... kVector>
void put_panel(const QuantizeColumns& q, const Vec (&scale)[kVectors], const Bits (&kept)[kVectors],
               std::integer_sequence<int, kVector...>) {
  const Columns<kHow> columns[kVectors] = {{Quotient<kHow>(scale[kVector]), kept[kVector]}...};
  std::byte* to = q.panel;
  for (int64_t r = 0; r < q.x.rows; r += 2, to += kPanel * kUnitBytes) {
    (put_pair<X, kHow>(q, r, kVector, columns[kVector], to), ...);
  }
}

template <typename X>
void quantize_columns(const QuantizeColumns& q) {
  Bits top[kVectors], kept[kVectors];
  Vec scale[kVectors];
  for (Bits& t : top) t = all(0);
  for (int64_t r = 0; r < q.x.rows; ++r) {
    prefetch(row_of<X>(q.x, r) + kPanel);  // the next panel's, to which rows are no stream
    for (int v = 0; v < kVectors; ++v) top[v] = larger(top[v], size_of_each(value<X>(q, r, v)));
  }
  float scales[kPanel], smallest = 1, largest = 1;
  for (int v = 0; v < kVectors; ++v) {
    kept[v] = where_less(top[v], all(kInfinity), all(~0U), all(0));
    scale[v] = scales_of(top[v], q.power_of_two);
    store(scales + v * kLanes, scale[v]);
  }
  for (int64_t c = 0; c < kPanel && c < q.x.cols; ++c) {
    q.scale[c] = scales[c];
    smallest = scales[c] < smallest ? scales[c] : smallest;
    largest = scales[c] > largest ? scales[c] : largest;
  }
  with_division(division_by<X>(smallest, largest, q.power_of_two), [&](auto how) {
    put_panel<X, how()>(q, scale, kept, std::make_integer_sequence<int, kVectors>());
  });
}

}  // namespace

const QuantizeColumnsKernels& quantize_columns_kernels() {
  static constexpr QuantizeColumnsKernels kTable{
      {quantize_columns<float>, quantize_columns<bf16>, quantize_columns<uint8_t>}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
