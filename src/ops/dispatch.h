// The way from a call to kernels: which kernel of a table, how many rows to a chunk, and whether
// what it writes is kept in the caches.
#pragma once

#include <algorithm>

#include "ops/matrix.h"

namespace minke::ops {

// The index of a format in a table of kernels: FP32, BF16.
inline int format_index(DType dtype) {
  MINKE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "{}", name_of(dtype));
  return dtype == DType::kBF16 ? 1 : 0;
}

// Rows of `cols` numbers that make a chunk worth a thread's while. Depends on sizes alone.
inline int64_t rows_per_chunk(int64_t cols) {
  constexpr int64_t kNumbers = 16384;
  return std::max<int64_t>(1, kNumbers / std::max<int64_t>(1, cols));
}

inline bool same_shape(const Matrix& a, const Matrix& b) {
  return a.rows == b.rows && a.cols == b.cols;
}

// Whether rows are written past the caches, which is a third less work for the memory: no cache
// would hold them until they are read. Their rows begin at cache lines.
inline bool is_streamed(const Matrix& y) {
  constexpr int64_t kBytes = int64_t{16} << 20, kLine = 64;
  const auto width = static_cast<int64_t>(size_of(y.dtype));
  return y.rows * y.cols * width >= kBytes && y.stride * width % kLine == 0 &&
         reinterpret_cast<uintptr_t>(y.data) % kLine == 0;
}

// Whether `x` holds a number a row in FP32.
inline bool is_vector(const Tensor& x, int64_t count) {
  return x.rank() == 1 && x.dtype() == DType::kF32 && x.count() == count;
}

}  // namespace minke::ops
