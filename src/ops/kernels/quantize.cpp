#include "ops/kernels/quantize.h"

#include "ops/kernels/e4m3.h"
#include "ops/kernels/matmul_fp8.h"
#include "ops/kernels/simd.h"
#include "tensor/scales.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename X, typename Q>
inline void put_codes(uint8_t* to, const X* x, int64_t count, const Q& quotient) {
  for_each_vector(count, [&](int64_t i, int n) {
    store_codes(to + i, codes_of(quotient, load_n(x + i, n)), n);
  });
}

template <typename Q>
inline void put_numbers(bf16* to, const float* x, int64_t count, const Q& quotient) {
  for_each_vector(
      count, [&](int64_t i, int n) { store_n(to + i, rounded(quotient, load_n(x + i, n)), n); });
}
template <typename Q>
inline void put_numbers(bf16* to, const bf16* x, int64_t count, const Q& quotient) {
  int64_t i = 0;
#if !defined(MINKE_TARGET_scalar)
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Bits pairs = load_pairs(x + i);
    const Vec first = rounded(quotient, vec_of(left<16>(pairs)));
    const Vec second = rounded(quotient, vec_of(both(pairs, all(0xffff0000))));
    store_pairs(to + i, joined(first, second));
  }
#endif
  for_each_vector(count - i, [&](int64_t j, int n) {
    store_n(to + i + j, rounded(quotient, load_n(x + i + j, n)), n);
  });
}

// A tile of some rows, and the ones after it.
struct Place {
  int64_t row, column;
  void next(int64_t columns) {
    column += kScaleBlock;
    if (column < columns) return;
    column = 0;
    ++row;
  }
};

template <typename X>
void put_tile(const QuantizeRows& q, const Place& at, int64_t count, uint32_t top, float inverse,
              float rest) {
  const X* x = row_of<X>(q.x, at.row) + at.column;
  uint8_t* codes = q.codes.data != nullptr ? row_of<uint8_t>(q.codes, at.row) + at.column : nullptr;
  bf16* numbers = q.numbers.data != nullptr ? row_of<bf16>(q.numbers, at.row) + at.column : nullptr;
  const float scale = q.scale[at.row * q.scale_stride + at.column / kScaleBlock];
  if (top >= kInfinity) {
    if (codes != nullptr) __builtin_memset(codes, 0, static_cast<size_t>(count));
    for (int64_t j = 0; numbers != nullptr && j < count; ++j) numbers[j].bits = 0;
    return;
  }
  with_division(division_by<X>(scale, scale, q.power_of_two), [&](auto how) {
    const Quotient<how()> quotient(scale, inverse, rest);
    if (codes != nullptr) put_codes(codes, x, count, quotient);
    if (numbers != nullptr) put_numbers(numbers, x, count, quotient);
  });
}

// So many tiles are measured before any is quantised: one alone would wait for its largest number,
// its scale and the inverse of that, one after the other. Meanwhile the next ones are asked for.
template <typename X>
void quantize_rows(const QuantizeRows& q, int64_t begin, int64_t end) {
  constexpr int64_t kTiles = kLanes, kLine = 64 / sizeof(X);
  Place at{begin, 0}, ahead{begin, 0};
  const auto width = [&](const Place& tile) { return least(q.x.cols - tile.column, kScaleBlock); };
  for (int64_t t = 0; t < kTiles && q.x.cols > 0; ++t) ahead.next(q.x.cols);
  while (at.row < end && q.x.cols > 0) {
    Place places[kTiles];
    alignas(64) uint32_t top[kTiles] = {};
    alignas(64) float scale[kTiles], high[kTiles], low[kTiles];
    int64_t tiles = 0;
    for (; tiles < kTiles && at.row < end; ++tiles, at.next(q.x.cols), ahead.next(q.x.cols)) {
      places[tiles] = at;
      const X* x = row_of<X>(q.x, at.row) + at.column;
      for (int64_t i = 0; ahead.row < end && i < width(ahead); i += kLine) {
        prefetch(row_of<X>(q.x, ahead.row) + ahead.column + i);
      }
      top[tiles] = largest_of(widest(all(0), x, width(at)));
    }
    const Vec scales =
        scales_of(bits_of(load(reinterpret_cast<const float*>(top))), q.power_of_two);
    const Quotient<Division::kCorrected> quotient(scales);
    store(scale, quotient.scale);
    store(high, quotient.high);
    store(low, quotient.low);
    for (int64_t t = 0; t < tiles; ++t) {
      const Place& place = places[t];
      q.scale[place.row * q.scale_stride + place.column / kScaleBlock] = scale[t];
      put_tile<X>(q, place, width(place), top[t], high[t], low[t]);
    }
  }
}

template <typename X>
void quantize_block(const Matrix& codes, float* scale, const Matrix& x, bool power_of_two) {
  Bits widest_of_rows = all(0);
  for (int64_t r = 0; r < x.rows; ++r) {
    widest_of_rows = widest(widest_of_rows, row_of<X>(x, r), x.cols);
  }
  const uint32_t top = largest_of(widest_of_rows);
  *scale = first_of(scales_of(all(top), power_of_two));
  with_division(division_by<X>(*scale, *scale, power_of_two), [&](auto how) {
    const Quotient<how()> quotient(splat(*scale));
    for (int64_t r = 0; r < x.rows; ++r) {
      auto* to = row_of<uint8_t>(codes, r);
      if (top >= kInfinity) {
        __builtin_memset(to, 0, static_cast<size_t>(x.cols));
      } else {
        put_codes(to, row_of<X>(x, r), x.cols, quotient);
      }
    }
  });
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
      for_each_vector(count, [&](int64_t i, int n) {
        store_n(to + c + i, numbers_of(from + c + i, n) * splat(s), n);
      });
    }
  }
}

}  // namespace

const QuantizeKernels& quantize_kernels() {
  static constexpr QuantizeKernels kTable{{quantize_rows<float>, quantize_rows<bf16>},
                                          {quantize_block<float>, quantize_block<bf16>},
                                          {dequantize<float>, dequantize<bf16>}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
