#include "ops/elementwise.h"

#include <numeric>
#include <vector>

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/dispatch.h"
#include "ops/kernels/elementwise.h"

namespace minke::ops {
namespace {

auto elementwise_table() { return MINKE_KERNELS(kernels::ElementwiseKernels, elementwise_kernels); }

// Calls body(row, first column, count) for pieces that cover both matrices. Where the rows of both
// touch, the matrices are one long row.
template <typename Body>
void for_each_piece(const Matrix& a, const Matrix& b, Body&& body) {
  if (a.rows == 0 || a.cols == 0) return;
  if (a.stride == a.cols && b.stride == b.cols) {
    parallel_for(a.rows * a.cols, rows_per_chunk(1),
                 [&](int64_t begin, int64_t end) { body(0, begin, end - begin); });
    return;
  }
  parallel_for(a.rows, rows_per_chunk(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) body(r, 0, a.cols);
  });
}

std::byte* at(const Matrix& m, int64_t r, int64_t c) {
  return static_cast<std::byte*>(m.data) +
         (r * m.stride + c) * static_cast<int64_t>(size_of(m.dtype));
}

const float* numbers(const Tensor& x, int64_t count) {
  if (x.empty()) return nullptr;
  MINKE_CHECK(is_vector(x, count));
  return x.data<float>();
}

}  // namespace

void swiglu(const Matrix& h_TF, const Matrix& gate_up, const Tensor& weight_T) {
  const Profiled profiled("swiglu");
  MINKE_CHECK(gate_up.rows == h_TF.rows && gate_up.cols == 2 * h_TF.cols);
  kernels::SwigluRows in{};
  in.gate_up = gate_up;
  in.weight = numbers(weight_T, h_TF.rows);
  in.streams = is_streamed(h_TF);
  const auto run =
      elementwise_table()->swiglu[format_index(h_TF.dtype)][format_index(gate_up.dtype)];
  parallel_for(h_TF.rows, rows_per_chunk(h_TF.cols),
               [&](int64_t begin, int64_t end) { run(h_TF, in, begin, end); });
}

void swiglu_backward(const Matrix& d_gate_up, const Tensor& dweight_T, const Matrix& h_TF,
                     const Matrix& dh_TF, const Matrix& gate_up, const Tensor& weight_T) {
  const Profiled profiled("swiglu_backward");
  MINKE_CHECK(gate_up.rows == dh_TF.rows && gate_up.cols == 2 * dh_TF.cols);
  MINKE_CHECK(same_shape(d_gate_up, gate_up));
  MINKE_CHECK(weight_T.empty() == dweight_T.empty());
  MINKE_CHECK(h_TF.empty() || (same_shape(h_TF, dh_TF) && h_TF.dtype == gate_up.dtype));
  kernels::SwigluRows in{};
  in.gate_up = gate_up;
  in.weight = numbers(weight_T, dh_TF.rows);
  in.d_gate_up = d_gate_up;
  in.h = h_TF;
  in.dh = dh_TF;
  in.dweight = const_cast<float*>(numbers(dweight_T, dh_TF.rows));
  const int64_t F = dh_TF.cols;
  in.streams = is_streamed(d_gate_up.columns(0, F)) && is_streamed(d_gate_up.columns(F, F)) &&
               (h_TF.empty() || is_streamed(h_TF));
  const auto run =
      elementwise_table()->swiglu_backward[format_index(d_gate_up.dtype)][format_index(dh_TF.dtype)]
                                          [format_index(gate_up.dtype)];
  parallel_for(dh_TF.rows, rows_per_chunk(dh_TF.cols),
               [&](int64_t begin, int64_t end) { run(in, begin, end); });
}

void convert(const Matrix& dst, const Matrix& src) {
  const Profiled profiled("convert");
  MINKE_CHECK(same_shape(dst, src));
  const auto run = elementwise_table()->convert[format_index(dst.dtype)][format_index(src.dtype)];
  for_each_piece(dst, src,
                 [&](int64_t r, int64_t c, int64_t n) { run(at(dst, r, c), at(src, r, c), n); });
}

void add(const Matrix& y, const Matrix& x) {
  const Profiled profiled("add");
  MINKE_CHECK(same_shape(y, x) && y.dtype == DType::kF32);
  const auto run = elementwise_table()->add[format_index(x.dtype)];
  for_each_piece(
      y, x, [&](int64_t r, int64_t c, int64_t n) { run(y.row<float>(r) + c, at(x, r, c), n); });
}

double sum_of_squares(const Tensor& x) {
  const Profiled profiled("sum_of_squares");
  const float* numbers = x.data<float>();
  constexpr int64_t kBlock = int64_t{1} << 16;
  std::vector<double> sums(static_cast<size_t>((x.count() + kBlock - 1) / kBlock));
  const auto run = elementwise_table()->sum_of_squares;
  parallel_for(x.count(), kBlock, [&](int64_t begin, int64_t end) {
    sums[static_cast<size_t>(begin / kBlock)] = run(numbers + begin, end - begin);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace minke::ops
