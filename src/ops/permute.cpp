#include "ops/permute.h"

#include <numeric>
#include <vector>

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/dispatch.h"
#include "ops/kernels/permute.h"

namespace minke::ops {
namespace {

void check_indices(std::span<const int32_t> indices, int64_t limit) {
  for (const int32_t i : indices) MINKE_CHECK(i >= 0 && i < limit, "{} of {}", i, limit);
}

}  // namespace

void sort_by_expert(std::span<int64_t> offsets, const Tensor& token_R, const Tensor& row_TK,
                    const Tensor& experts_TK) {
  const Profiled profiled("sort_by_expert");
  const auto experts = experts_TK.span<int32_t>();
  const auto token = token_R.span<int32_t>(), row = row_TK.span<int32_t>();
  MINKE_CHECK(experts_TK.rank() == 2 && row_TK.shape() == experts_TK.shape());
  MINKE_CHECK(token.size() == experts.size() && offsets.size() >= 2);
  check_indices(experts, static_cast<int64_t>(offsets.size()) - 1);
  MINKE_CHECK(token_R.count() <= INT32_MAX);

  std::ranges::fill(offsets, 0);
  for (const int32_t e : experts) ++offsets[static_cast<size_t>(e) + 1];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  const auto choices = static_cast<size_t>(experts_TK.dim(1));
  for (size_t i = 0; i < experts.size(); ++i) {
    const int64_t r = next[static_cast<size_t>(experts[i])]++;
    token[static_cast<size_t>(r)] = static_cast<int32_t>(i / choices);
    row[i] = static_cast<int32_t>(r);
  }
}

void gather_rows(const Matrix& y_RD, const Matrix& x_TD, const Tensor& token_R) {
  if (x_TD.dtype == DType::kI8) {  // four at a time, as if they were FP32
    const auto words = [](const Matrix& x) {
      MINKE_CHECK(x.dtype == DType::kI8 && x.cols % 4 == 0 && x.stride % 4 == 0);
      return Matrix{x.data, DType::kF32, x.rows, x.cols / 4, x.stride / 4};
    };
    return gather_rows(words(y_RD), words(x_TD), token_R);
  }
  const Profiled profiled("gather_rows");
  const auto token = token_R.span<int32_t>();
  MINKE_CHECK(y_RD.cols == x_TD.cols && y_RD.rows == token_R.count());
  check_indices(token, x_TD.rows);
  const bool streams = is_streamed(y_RD);
  const auto run = MINKE_KERNELS(kernels::PermuteKernels, permute_kernels)
                       ->gather[format_index(y_RD.dtype)][format_index(x_TD.dtype)];
  parallel_for(y_RD.rows, rows_per_chunk(y_RD.cols), [&](int64_t begin, int64_t end) {
    run(y_RD, streams, x_TD, token.data(), begin, end);
  });
}

void combine_rows(const Matrix& y_TD, bool accumulate, const Matrix& x_RD, const Tensor& row_TK) {
  const Profiled profiled("combine_rows");
  MINKE_CHECK(row_TK.rank() == 2 && row_TK.dim(0) == y_TD.rows && row_TK.dim(1) >= 1);
  MINKE_CHECK(y_TD.cols == x_RD.cols);
  MINKE_CHECK(!accumulate || y_TD.dtype == DType::kF32);
  check_indices(row_TK.span<int32_t>(), x_RD.rows);
  const int64_t choices = row_TK.dim(1);
  const bool streams = !accumulate && is_streamed(y_TD);
  const auto run = MINKE_KERNELS(kernels::PermuteKernels, permute_kernels)
                       ->combine[format_index(y_TD.dtype)][format_index(x_RD.dtype)];
  parallel_for(y_TD.rows, rows_per_chunk(y_TD.cols), [&](int64_t begin, int64_t end) {
    run(y_TD, accumulate, streams, x_RD, row_TK.data<int32_t>(), choices, begin, end);
  });
}

void gather_weights(const Tensor& y_R, const Tensor& x_TK, const Tensor& row_TK) {
  const Profiled profiled("gather_weights");
  const auto row = row_TK.span<int32_t>();
  const auto y = y_R.span<float>(), x = x_TK.span<float>();
  MINKE_CHECK(y.size() == row.size() && x_TK.shape() == row_TK.shape());
  check_indices(row, y_R.count());
  for (size_t i = 0; i < row.size(); ++i) y[static_cast<size_t>(row[i])] = x[i];
}

void scatter_weights(const Tensor& y_TK, const Tensor& x_R, const Tensor& row_TK) {
  const Profiled profiled("scatter_weights");
  const auto row = row_TK.span<int32_t>();
  const auto y = y_TK.span<float>(), x = x_R.span<float>();
  MINKE_CHECK(x.size() == row.size() && y_TK.shape() == row_TK.shape());
  check_indices(row, x_R.count());
  for (size_t i = 0; i < row.size(); ++i) y[i] = x[static_cast<size_t>(row[i])];
}

}  // namespace minke::ops
