// Panels of codes (ops/kernels/matmul_fp8.h).
#include "ops/kernels/fp8_unit.h"
#include "ops/kernels/matmul.h"
#include "ops/kernels/matmul_fp8.h"
#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

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

const Fp8PackKernels& fp8_pack_kernels() {
  static constexpr Fp8PackKernels kTable{pack_rows, pack_columns};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
