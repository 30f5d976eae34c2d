#include "ops/embedding.h"

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/dispatch.h"
#include "ops/kernels/elementwise.h"

namespace minke::ops {
namespace {

void check_tokens(std::span<const int32_t> tokens, int64_t vocabulary) {
  for (const int32_t t : tokens) {
    MINKE_CHECK(t >= 0 && t < vocabulary, "token {} of {}", t, vocabulary);
  }
}

}  // namespace

void embedding(const Matrix& x_TD, const Tensor& w_VD, std::span<const int32_t> tokens) {
  const Profiled profiled("embedding");
  const Matrix w = w_VD;
  MINKE_CHECK(x_TD.rows == std::ssize(tokens) && x_TD.cols == w.cols);
  check_tokens(tokens, w.rows);
  const auto copy = MINKE_KERNELS(kernels::ElementwiseKernels, elementwise_kernels)
                        ->convert[format_index(DType::kF32)][format_index(w.dtype)];
  parallel_for(x_TD.rows, rows_per_chunk(x_TD.cols), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      copy(x_TD.row<float>(t), w.row_range(tokens[static_cast<size_t>(t)], 1).data, x_TD.cols);
    }
  });
}

void embedding_backward(const Tensor& dw_VD, const Matrix& dx_TD, std::span<const int32_t> tokens) {
  const Profiled profiled("embedding_backward");
  const Matrix dw = dw_VD;
  MINKE_CHECK(dx_TD.rows == std::ssize(tokens) && dx_TD.cols == dw.cols);
  MINKE_CHECK(dw.dtype == DType::kF32);
  check_tokens(tokens, dw.rows);
  const auto add = MINKE_KERNELS(kernels::ElementwiseKernels, elementwise_kernels)
                       ->add[format_index(dx_TD.dtype)];
  // A thread takes columns, not tokens: two tokens may be the same row of dw.
  constexpr int64_t kColumns = 128;
  parallel_for(dx_TD.cols, kColumns, [&](int64_t begin, int64_t end) {
    const Matrix dx = dx_TD.columns(begin, end - begin);
    for (int64_t t = 0; t < dx.rows; ++t) {
      add(dw.row<float>(tokens[static_cast<size_t>(t)]) + begin, dx.row_range(t, 1).data,
          end - begin);
    }
  });
}

}  // namespace minke::ops
