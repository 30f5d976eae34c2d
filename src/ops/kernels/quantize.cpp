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
    store_codes(to + i, codes_of(quotient(load_n(x + i, n))), n);
  });
}

template <typename Q>
inline void put_numbers(bf16* to, const float* x, int64_t count, const Q& quotient) {
  for_each_vector(
      count, [&](int64_t i, int n) { store_n(to + i, rounded(quotient(load_n(x + i, n))), n); });
}
template <typename Q>
inline void put_numbers(bf16* to, const bf16* x, int64_t count, const Q& quotient) {
  int64_t i = 0;
#if !defined(MINKE_TARGET_scalar)
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Bits pairs = load_pairs(x + i);
    const Vec first = rounded(quotient(vec_of(left<16>(pairs))));
    const Vec second = rounded(quotient(vec_of(both(pairs, all(0xffff0000)))));
    store_pairs(to + i, joined(first, second));
  }
#endif
  for_each_vector(count - i, [&](int64_t j, int n) {
    store_n(to + i + j, rounded(quotient(load_n(x + i + j, n))), n);
  });
}

// Tiles of a row that are measured before any is quantised: a tile alone would wait for its largest
// number, its scale and the inverse of that, one after the other.
constexpr int64_t kTiles = kLanes;
struct Tiles {
  alignas(64) uint32_t top[kTiles] = {};
  alignas(64) float scale[kTiles], high[kTiles], low[kTiles];

  template <typename X>
  Tiles(const X* x, int64_t columns, bool power_of_two) {
    for (int64_t t = 0; t * kScaleBlock < columns; ++t) {
      const int64_t count = least(columns - t * kScaleBlock, kScaleBlock);
      top[t] = largest_of(widest(all(0), x + t * kScaleBlock, count));
    }
    const Vec scales = scales_of(bits_of(load(reinterpret_cast<const float*>(top))), power_of_two);
    const Quotient<Division::kCorrected> quotient(scales);
    store(scale, quotient.scale);
    store(high, quotient.high);
    store(low, quotient.low);
  }
};

template <typename X>
void quantize_rows(const QuantizeRows& q, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t first = 0; first < q.x.cols; first += kTiles * kScaleBlock) {
      const int64_t columns = least(q.x.cols - first, kTiles * kScaleBlock);
      const X* x = row_of<X>(q.x, i) + first;
      const Tiles tiles(x, columns, q.power_of_two);
      auto* codes = q.codes.data != nullptr ? row_of<uint8_t>(q.codes, i) + first : nullptr;
      auto* numbers = q.numbers.data != nullptr ? row_of<bf16>(q.numbers, i) + first : nullptr;
      float* scale = q.scale + i * q.scale_stride + first / kScaleBlock;
      for (int64_t t = 0, c = 0; c < columns; ++t, c += kScaleBlock) {
        const int64_t count = least(columns - c, kScaleBlock);
        scale[t] = tiles.scale[t];
        if (tiles.top[t] >= kInfinity) {
          if (codes != nullptr) __builtin_memset(codes + c, 0, static_cast<size_t>(count));
          for (int64_t j = c; numbers != nullptr && j < c + count; ++j) numbers[j].bits = 0;
          continue;
        }
        with_division(division_by(scale[t], scale[t], q.power_of_two), [&](auto how) {
          const Quotient<how()> quotient(tiles.scale[t], tiles.high[t], tiles.low[t]);
          if (codes != nullptr) put_codes(codes + c, x + c, count, quotient);
          if (numbers != nullptr) put_numbers(numbers + c, x + c, count, quotient);
        });
      }
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
  with_division(division_by(*scale, *scale, power_of_two), [&](auto how) {
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
