// What is written past the caches has the bytes that it has where it is not. One number between the
// rows keeps them in the caches.
#include <gtest/gtest.h>

#include <cstring>

#include "ops/elementwise.h"
#include "ops/isa_test_fixture.h"
#include "ops/norm.h"

namespace minke::ops {
namespace {

class Streams : public EveryIsa {};
MINKE_ON_EVERY_ISA(Streams);

constexpr int64_t kStreamedCols = 1056;  // whole cache lines, not only whole steps of any set
constexpr DType kStreamedFormats[] = {DType::kF32, DType::kBF16};

// As many as are written past the caches.
int64_t rows_of(DType format) {
  return (int64_t{17} << 20) / (kStreamedCols * static_cast<int64_t>(size_of(format)));
}

OwnedTensor numbers(DType format, int64_t rows, int64_t cols, int64_t seed) {
  OwnedTensor out(format, {rows, cols});
  for (int64_t i = 0; i < out.count(); ++i) {
    const float x = static_cast<float>((i * seed) % 1013 - 506) / 256;
    if (format == DType::kF32) {
      out.data<float>()[i] = x;
    } else {
      out.data<bf16>()[i] = bf16(x);
    }
  }
  return out;
}

// A matrix in memory of its own, with or without a number between its rows.
struct Rows {
  Rows(DType format, int64_t rows, int64_t cols, bool apart)
      : memory(format, {rows, cols + (apart ? 1 : 0)}), view(Matrix(memory).columns(0, cols)) {}
  OwnedTensor memory;
  Matrix view;
};

void expect_same(const Rows& a, const Rows& b) {
  const size_t width = size_of(a.view.dtype), bytes = static_cast<size_t>(a.view.cols) * width;
  const auto row = [&](const Matrix& m, int64_t r) {
    return static_cast<const std::byte*>(m.data) + static_cast<size_t>(r * m.stride) * width;
  };
  for (int64_t r = 0; r < a.view.rows; ++r) {
    ASSERT_EQ(std::memcmp(row(a.view, r), row(b.view, r), bytes), 0) << r;
  }
}

TEST_P(Streams, Swiglu) {
  for (const DType format : kStreamedFormats) {
    const int64_t T = rows_of(format);
    const OwnedTensor gate_up = numbers(format, T, 2 * kStreamedCols, 37);
    const Rows h(format, T, kStreamedCols, false), apart(format, T, kStreamedCols, true);
    swiglu(h.view, gate_up, {});
    swiglu(apart.view, gate_up, {});
    expect_same(h, apart);
  }
}

TEST_P(Streams, SwigluBackward) {
  for (const DType format : kStreamedFormats) {
    const int64_t T = rows_of(format);
    const OwnedTensor gate_up = numbers(format, T, 2 * kStreamedCols, 37),
                      dh = numbers(format, T, kStreamedCols, 41);
    const Rows h(format, T, kStreamedCols, false), h_apart(format, T, kStreamedCols, true);
    const Rows d(format, T, 2 * kStreamedCols, false), d_apart(format, T, 2 * kStreamedCols, true);
    swiglu_backward(d.view, {}, h.view, dh, gate_up, {});
    swiglu_backward(d_apart.view, {}, h_apart.view, dh, gate_up, {});
    expect_same(h, h_apart);
    expect_same(d, d_apart);
  }
}

TEST_P(Streams, RmsNormAndItsBackward) {
  const OwnedTensor w = numbers(DType::kF32, 1, kStreamedCols, 43);
  const Tensor w_D = w.as({kStreamedCols});
  for (const DType format : kStreamedFormats) {
    const int64_t T = rows_of(format);
    const OwnedTensor x = numbers(format, T, kStreamedCols, 37),
                      dy = numbers(format, T, kStreamedCols, 41);
    const OwnedTensor rstd(DType::kF32, {T}), dw(DType::kF32, {kStreamedCols}),
        dw_apart(DType::kF32, {kStreamedCols});
    const Rows y(format, T, kStreamedCols, false), apart(format, T, kStreamedCols, true);
    rms_norm(y.view, rstd, x, w_D, 1e-6F);
    rms_norm(apart.view, {}, x, w_D, 1e-6F);
    expect_same(y, apart);
    Arena scratch(static_cast<size_t>(65 * kStreamedCols) * sizeof(float) + 4096);
    rms_norm_backward(y.view, false, dw, dy, x, rstd, w_D, scratch);
    rms_norm_backward(apart.view, false, dw_apart, dy, x, rstd, w_D, scratch);
    expect_same(y, apart);
    EXPECT_EQ(std::memcmp(dw.raw(), dw_apart.raw(), dw.bytes()), 0);
  }
}

}  // namespace
}  // namespace minke::ops
