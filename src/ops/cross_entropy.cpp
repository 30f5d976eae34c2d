#include "ops/cross_entropy.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/dispatch.h"
#include "ops/kernels/cross_entropy.h"

namespace minke::ops {
namespace {

void check(const CrossEntropy& what) {
  const int64_t T = what.h_TD.rows, D = what.h_TD.cols, V = what.head.n;
  MINKE_CHECK(what.head.k == D && V >= 1 && std::ssize(what.targets) == T);
  for (const int32_t t : what.targets) {
    MINKE_CHECK(t == kIgnore || (t >= 0 && t < V), "target {} of {}", t, V);
  }
  MINKE_CHECK(what.dh_TD.empty() ||
              (same_shape(what.dh_TD, what.h_TD) && what.head_dgrad.n == D &&
               what.head_dgrad.k == V && what.head_dgrad.format == what.head.format));
  MINKE_CHECK(what.dw_VD.empty() || what.dw_VD.shape() == Shape({V, D}));
  MINKE_CHECK(what.loss_T.empty() || std::ssize(what.loss_T) == T);
  MINKE_CHECK(what.argmax_T.empty() || std::ssize(what.argmax_T) == T);
}

// Losses of the tokens from `first` on; logits become gradients, in the head's format (`dlogits`,
// which may be the logits' own memory), where they are wanted.
void softmax_rows(std::span<double> losses, const Matrix& dlogits, const Matrix& logits,
                  int64_t first, const CrossEntropy& what) {
  const int64_t V = logits.cols;
  const auto kernels = MINKE_KERNELS(kernels::CrossEntropyKernels, cross_entropy_kernels);
  const bool backward = !dlogits.empty();
  parallel_for(logits.rows, rows_per_chunk(V), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = logits.row<float>(r);
      const auto t = static_cast<size_t>(first + r);
      const int32_t target = what.targets[t];
      const bool counts = target != kIgnore;
      const float at_target = counts ? row[target] : 0.0F;
      const auto softmax = kernels->softmax(row, V);
      const double loss = counts ? std::log(softmax.total) + static_cast<double>(softmax.top) -
                                       static_cast<double>(at_target)
                                 : 0.0;
      losses[static_cast<size_t>(r)] = loss;
      if (!what.loss_T.empty()) what.loss_T[t] = static_cast<float>(loss);
      if (!what.argmax_T.empty()) what.argmax_T[t] = static_cast<int32_t>(softmax.where);
      if (!backward) continue;
      const int format = format_index(dlogits.dtype);
      const double scale = counts ? static_cast<double>(what.scale) : 0.0;
      const double p = counts ? static_cast<double>(row[target]) / softmax.total : 0.0;
      void* d = dlogits.row_range(r, 1).data;
      kernels->scale[format](d, row, static_cast<float>(scale / softmax.total), V);
      if (!counts) continue;
      const auto at = static_cast<float>(scale * (p - 1));
      if (format == 0) {
        static_cast<float*>(d)[target] = at;
      } else {
        static_cast<bf16*>(d)[target] = bf16(at);
      }
    }
  });
}

}  // namespace

int64_t cross_entropy_block(int64_t vocabulary) {
  return std::clamp<int64_t>((int64_t{1} << 25) / vocabulary, 64, 512);
}

double linear_cross_entropy(const CrossEntropy& what, Arena& scratch) {
  const Profiled profiled("linear_cross_entropy");
  check(what);
  const int64_t T = what.h_TD.rows, V = what.head.n;
  const DType format = what.head.format;
  const bool wants_dh = !what.dh_TD.empty(), wants_dw = !what.dw_VD.empty();
  std::vector<double> losses(static_cast<size_t>(T));
  const int64_t block = cross_entropy_block(V);
  for (int64_t first = 0; first < T; first += block) {
    const Arena::Scope scope(scratch);
    const int64_t rows = std::min(block, T - first);
    const Matrix h = prepare(scratch, what.h_TD.row_range(first, rows), format);
    const Matrix logits = scratch.make(DType::kF32, {rows, V});
    matmul({logits, h, what.head, false});
    Matrix dlogits;
    if (wants_dh || wants_dw) {
      dlogits = format == DType::kF32 ? logits : Matrix(scratch.make(format, {rows, V}));
    }
    softmax_rows(std::span(losses).subspan(static_cast<size_t>(first), static_cast<size_t>(rows)),
                 dlogits, logits, first, what);
    if (wants_dh) {
      matmul({what.dh_TD.row_range(first, rows), dlogits, what.head_dgrad, false});
    }
    if (wants_dw) {
      const WeightGradient gradient{what.dw_VD, dlogits, h, what.adds_to_dw || first > 0};
      matmul_wgrad(std::span(&gradient, 1), format, scratch);
    }
  }
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace minke::ops
