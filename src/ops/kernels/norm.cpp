#include "ops/kernels/norm.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

// The second pass over a row, which lies in the first cache, asks the memory for the next row.
template <bool kStream, typename Y, typename X>
void forward_rows(const Matrix& y_TD, const NormRows& in, int64_t begin, int64_t end) {
  const int64_t D = y_TD.cols;
  for (int64_t t = begin; t < end; ++t) {
    const X* x = row_of<X>(in.x, t);
    Y* y = row_of<Y>(y_TD, t);
    const float squares = sum_vectors(D, [&](int64_t i, auto n) {
      const auto v = load_n(x + i, n);
      return v * v;
    });
    const float rstd = 1.0F / __builtin_sqrtf(squares / static_cast<float>(D) + in.eps);
    if (in.rstd != nullptr) in.rstd[t] = rstd;
    const Vec r = splat(rstd);
    for_each_in_step(D, [&](int64_t i, auto n) {
      prefetch_n(x + in.x.stride + i, n);
      write_n<kStream>(y + i, load_n(x + i, n) * r * load_n(in.w + i, n), n);
    });
  }
  if (kStream) end_streams();
}

template <typename Y, typename X>
void forward(const Matrix& y, const NormRows& in, int64_t begin, int64_t end) {
  in.streams ? forward_rows<true, Y, X>(y, in, begin, end)
             : forward_rows<false, Y, X>(y, in, begin, end);
}

// With g = dy w and xh = x rstd: dx = rstd (g - xh mean(g xh)), dw += dy xh.
// Each pass over a row asks the memory for what the next pass needs: the first for the row to be
// written, the second for the next row to be read. Where nothing is to be read before it is
// written, the first, too, asks for the next row, and the memory is never without work.
template <bool kStream, typename DX, typename DY, typename X>
void backward_rows(const Matrix& dx_TD, float* dw, const NormRows& in, int64_t begin, int64_t end) {
  const int64_t D = dx_TD.cols;
  for (int64_t t = begin; t < end; ++t) {
    const X* x = row_of<X>(in.x, t);
    const DY* dy = row_of<DY>(in.dy, t);
    DX* dx = row_of<DX>(dx_TD, t);
    const float rstd = in.rstd[t];
    const float dot = sum_vectors(D, [&](int64_t i, auto n) {
      if constexpr (kStream) {
        prefetch_n(x + in.x.stride + i, n);
        prefetch_n(dy + in.dy.stride + i, n);
      } else {
        prefetch_n(dx + i, n);
      }
      return load_n(dy + i, n) * load_n(in.w + i, n) * load_n(x + i, n);
    });
    const Vec r = splat(rstd);
    const Vec mean = splat(dot * rstd / static_cast<float>(D));
    for_each_vector(D, [&](int64_t i, int n) {
      prefetch(x + in.x.stride + i);
      prefetch(dy + in.dy.stride + i);
      const Vec g = load_n(dy + i, n), xh = load_n(x + i, n) * r;
      Vec d = r * (g * load_n(in.w + i, n) - xh * mean);
      if (in.accumulate) d = d + load_n(dx + i, n);
      write_n<kStream>(dx + i, d, n);
      store_n(dw + i, fma(g, xh, load_n(dw + i, n)), n);
    });
  }
  if (kStream) end_streams();
}

template <typename DX, typename DY, typename X>
void backward(const Matrix& dx, float* dw, const NormRows& in, int64_t begin, int64_t end) {
  in.streams ? backward_rows<true, DX, DY, X>(dx, dw, in, begin, end)
             : backward_rows<false, DX, DY, X>(dx, dw, in, begin, end);
}

}  // namespace

const NormKernels& norm_kernels() {
  static constexpr NormKernels kTable{
      {{forward<float, float>, forward<float, bf16>}, {forward<bf16, float>, forward<bf16, bf16>}},
      {{{backward<float, float, float>, backward<float, float, bf16>},
        {backward<float, bf16, float>, backward<float, bf16, bf16>}},
       {{backward<bf16, float, float>, backward<bf16, float, bf16>},
        {backward<bf16, bf16, float>, backward<bf16, bf16, bf16>}}}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
