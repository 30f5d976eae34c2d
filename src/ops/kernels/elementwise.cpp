#include "ops/kernels/elementwise.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

template <bool kStream, typename H, typename X>
MINKE_FLATTEN void swiglu_rows(const Matrix& h_TF, const SwigluRows& in, int64_t begin,
                               int64_t end) {
  const int64_t F = h_TF.cols;
  for (int64_t t = begin; t < end; ++t) {
    const X* gate = row_of<X>(in.gate_up, t);
    const X* up = gate + F;
    H* h = row_of<H>(h_TF, t);
    const Vec weight = splat(in.weight != nullptr ? in.weight[t] : 1.0F);
    for_each_in_step(F, [&](int64_t i, auto n) {
      prefetch_n(gate + in.gate_up.stride + i, n);
      prefetch_n(up + in.gate_up.stride + i, n);
      const auto g = load_n(gate + i, n);
      const auto a = g / (splat(1.0F) + exp<-1>(g));
      write_n<kStream>(h + i, a * (load_n(up + i, n) * weight), n);
    });
  }
  if (kStream) end_streams();
}

template <typename H, typename X>
void swiglu(const Matrix& h, const SwigluRows& in, int64_t begin, int64_t end) {
  in.streams ? swiglu_rows<true, H, X>(h, in, begin, end)
             : swiglu_rows<false, H, X>(h, in, begin, end);
}

// With s = sigmoid(g), a = g s: da/dg = s + a (1 - s).
// kAgain: the output is wanted, too, to the last bit as swiglu makes it.
template <bool kAgain, bool kStream, typename DX, typename DH, typename X>
MINKE_FLATTEN void swiglu_backward_rows(const SwigluRows& in, int64_t begin, int64_t end) {
  const int64_t F = in.dh.cols;
  for (int64_t t = begin; t < end; ++t) {
    const X* gate = row_of<X>(in.gate_up, t);
    const X* up = gate + F;
    const DH* dh = row_of<DH>(in.dh, t);
    DX* d_gate = row_of<DX>(in.d_gate_up, t);
    DX* d_up = d_gate + F;
    X* h = kAgain ? row_of<X>(in.h, t) : nullptr;
    const Vec weight = splat(in.weight != nullptr ? in.weight[t] : 1.0F);
    const Vec one = splat(1.0F);
    const float dweight = sum_vectors(F, [&](int64_t i, auto n) {
      prefetch_n(gate + in.gate_up.stride + i, n);
      prefetch_n(up + in.gate_up.stride + i, n);
      prefetch_n(dh + in.dh.stride + i, n);
      const auto g = load_n(gate + i, n), below = one + exp<-1>(g), s = one / below, a = g / below;
      if constexpr (kAgain) write_n<kStream>(h + i, a * (load_n(up + i, n) * weight), n);
      const auto slope = fma(a, one - s, s) * weight;
      // Read no sooner than needed: registers are few.
      const auto d = load_n(dh + i, n);
      write_n<kStream>(d_up + i, d * (a * weight), n);
      const auto du = d * load_n(up + i, n);
      write_n<kStream>(d_gate + i, du * slope, n);
      return du * a;
    });
    if (in.dweight != nullptr) in.dweight[t] = dweight;
  }
  if (kStream) end_streams();
}

template <typename DX, typename DH, typename X>
void swiglu_backward(const SwigluRows& in, int64_t begin, int64_t end) {
  const bool again = in.h.data != nullptr;
  const auto run = again ? (in.streams ? swiglu_backward_rows<true, true, DX, DH, X>
                                       : swiglu_backward_rows<true, false, DX, DH, X>)
                         : (in.streams ? swiglu_backward_rows<false, true, DX, DH, X>
                                       : swiglu_backward_rows<false, false, DX, DH, X>);
  run(in, begin, end);
}

template <typename To, typename From>
void convert(void* to, const void* from, int64_t n) {
  auto* y = static_cast<To*>(to);
  const auto* x = static_cast<const From*>(from);
  for_each_vector(n, [&](int64_t i, int m) { store_n(y + i, load_n(x + i, m), m); });
}

// The same format moves bits: a signalling NaN stays what it is.
template <typename T>
void copy(void* to, const void* from, int64_t n) {
  __builtin_memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
}

template <typename X>
void add(float* y, const void* from, int64_t n) {
  const auto* x = static_cast<const X*>(from);
  for_each_vector(
      n, [&](int64_t i, int m) { store_n(y + i, load_n(y + i, m) + load_n(x + i, m), m); });
}

double sum_of_squares(const float* x, int64_t n) {
  constexpr int kSums = 16;
  double sum[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int j = 0; j < kSums; ++j) {
      const double v = static_cast<double>(x[i + j]);
      sum[j] += v * v;
    }
  }
  for (; i < n; ++i) sum[i % kSums] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (int width = kSums / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) sum[j] += sum[j + width];
  }
  return sum[0];
}

}  // namespace

const ElementwiseKernels& elementwise_kernels() {
  static constexpr ElementwiseKernels kTable{
      {{swiglu<float, float>, swiglu<float, bf16>}, {swiglu<bf16, float>, swiglu<bf16, bf16>}},
      {{{swiglu_backward<float, float, float>, swiglu_backward<float, float, bf16>},
        {swiglu_backward<float, bf16, float>, swiglu_backward<float, bf16, bf16>}},
       {{swiglu_backward<bf16, float, float>, swiglu_backward<bf16, float, bf16>},
        {swiglu_backward<bf16, bf16, float>, swiglu_backward<bf16, bf16, bf16>}}},
      {{copy<float>, convert<float, bf16>}, {convert<bf16, float>, copy<bf16>}},
      {add<float>, add<bf16>},
      sum_of_squares};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
