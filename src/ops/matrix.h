// Matrix: a view of rows that need not touch each other (columns of a wider tensor, one head of
// many).
#pragma once

#include "tensor/tensor.h"

namespace minke::ops {

struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  int64_t stride = 0;  // numbers from one row to the next

  Matrix() = default;
  Matrix(void* d, DType t, int64_t r, int64_t c, int64_t s)
      : data(d), dtype(t), rows(r), cols(c), stride(s) {}
  // All leading dimensions become rows.
  Matrix(const Tensor& t)  // NOLINT(google-explicit-constructor): a tensor is a matrix
      : data(t.raw()),
        dtype(t.dtype()),
        rows(t.empty()                  ? 0
             : t.dim(t.rank() - 1) == 0 ? 0
                                        : t.count() / t.dim(t.rank() - 1)),
        cols(t.empty() ? 0 : t.dim(t.rank() - 1)),
        stride(cols) {}

  bool empty() const { return data == nullptr; }
  template <typename T>
  T* row(int64_t r) const {
    MINKE_DCHECK(dtype_of<T>() == dtype && r >= 0 && r < rows);
    return static_cast<T*>(data) + r * stride;
  }
  Matrix row_range(int64_t begin, int64_t n) const {
    MINKE_CHECK(begin >= 0 && n >= 0 && begin + n <= rows);
    return {static_cast<std::byte*>(data) + begin * stride * static_cast<int64_t>(size_of(dtype)),
            dtype, n, cols, stride};
  }
  Matrix columns(int64_t begin, int64_t n) const {
    MINKE_CHECK(begin >= 0 && n >= 0 && begin + n <= cols);
    return {static_cast<std::byte*>(data) + begin * static_cast<int64_t>(size_of(dtype)), dtype,
            rows, n, stride};
  }
};

}  // namespace minke::ops
