// The linear layer y = x W^T and RMSNorm with a weight: forward and backward.
#pragma once

#include <initializer_list>
#include <optional>

#include "model/weight.h"

namespace minke::model {

// What a backward computes again instead of having it kept; the same bytes come out.
enum class Recompute {
  kNone,
  kPaper,  // norms, MLA's up-projections, SwiGLU's output (V3 report, section 3.2.3)
  kBlock,  // all of a block, from its input
};
constexpr auto names(Recompute) {
  return std::array{Name{"none", Recompute::kNone}, Name{"paper", Recompute::kPaper},
                    Name{"block", Recompute::kBlock}};
}

// What a pass computes with. `saved` is filled by a forward with what its backward will read;
// `scratch` is given back by whoever took it.
struct Pass {
  Precision precision = Precision::kF32;
  Arena& saved;
  Arena& scratch;
  Recompute recompute = Recompute::kNone;
  ops::Fp8Recipe fp8 = {};

  bool is_fp8() const { return precision == Precision::kFp8; }
  Pass with(Recompute other) const { return {precision, saved, scratch, other, fp8}; }
  // Where a forward puts what the paper computes again.
  Arena& cheap() const { return recompute == Recompute::kNone ? saved : scratch; }
  // Norms and SwiGLU's output, which take little time and are never kept in FP8.
  bool computes_again() const { return recompute == Recompute::kPaper || is_fp8(); }
  Arena& cheapest() const { return computes_again() ? scratch : cheap(); }

  DType activation() const { return dtype_of_precision(precision); }
};

// The left side of products: numbers of the right side's format or, where that is E4M3, of codes in
// BF16 beside their scales, or what products quantise themselves.
struct Left {
  ops::Matrix numbers;
  ops::Scales scales = {};
  std::optional<ops::LeftTiles> tiles = {};
  Left row_range(int64_t begin, int64_t rows) const;
};
// x for an operand of that format. segment: see Weight::segment. recipe: of E4M3.
Left left_of(const ops::Matrix& x, DType format, int64_t segment, const ops::Fp8Recipe& recipe,
             Arena& scratch);
// The rows of `tokens` (I32) as experts get them: E4M3 with power-of-two scales, whatever those of
// the run, is quantised before it is sent (V3 report, section 3.3.3).
Left dispatched(const ops::Matrix& x, DType format, const Tensor& tokens,
                const ops::Fp8Recipe& recipe, Arena& scratch);
// y (+)= x W_i^T, and dx (+)= dy W_i.
void add_fprop(std::vector<ops::Product>& products, const ops::Matrix& y, const Left& x,
               const Weight& w, int64_t i, bool accumulate);
void add_dgrad(std::vector<ops::Product>& products, const ops::Matrix& dx, const Left& dy,
               const Weight& w, int64_t i, bool accumulate);
// Gradients of matrices of w.
void weight_gradients(std::span<const ops::WeightGradient> products, const Weight& w,
                      const Pass& pass);

// y_TN (+)= x_TK W^T. y FP32 or BF16 (accumulate: FP32), x FP32 or BF16.
struct Linear {
  ops::Matrix y, x;
  const Weight& w;
  bool accumulate = false;
};
// Its products, whose left side is in scratch.
void add_linear(std::vector<ops::Product>& products, const Linear& layer, const Pass& pass);
// Layers that do not read each other's output, at once.
void linear(std::initializer_list<Linear> layers, const Pass& pass);
void linear(const ops::Matrix& y, const ops::Matrix& x, const Weight& w, bool accumulate,
            const Pass& pass);
// dy as both of these read it: dx_TK (+)= dy_TN W, and dW += dy^T x.
Left left_for_backward(const ops::Matrix& dy, const Weight& w, const Pass& pass);
void linear_dgrad(const ops::Matrix& dx, bool accumulate, const Left& dy, const Weight& w);
void linear_wgrad(const Left& dy, const ops::Matrix& x, Weight& w, const Pass& pass);
// The two together, the first skipped where dx is empty.
void linear_backward(const ops::Matrix& dx, bool accumulate, const ops::Matrix& dy,
                     const ops::Matrix& x, Weight& w, const Pass& pass);

struct RmsNorm {
  Weight weight;
  float eps = 1e-6F;

  struct Saved {
    Tensor rstd_T;
  };
  // y_TD of the run's activation type.
  void forward(const ops::Matrix& y, const ops::Matrix& x, Saved& saved, const Pass& pass) const;
  void forward(const ops::Matrix& y, const ops::Matrix& x) const;  // no backward follows
  void backward(const ops::Matrix& dx, bool accumulate, const ops::Matrix& dy, const ops::Matrix& x,
                const Saved& saved, const Pass& pass) const;
};

}  // namespace minke::model
