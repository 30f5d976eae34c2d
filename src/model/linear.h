// The linear layer y = x W^T and RMSNorm with a weight: forward and backward.
#pragma once

#include "model/weight.h"

namespace minke::model {

// What a backward computes again instead of having it kept; the same bytes come out.
enum class Recompute {
  kNone,
  kPaper,  // norms, MLA's up-projections, SwiGLU's output (V3 report, section 3.2.3)
  kBlock,  // all of a block, from its input
};

// What a pass computes with. `saved` is filled by a forward with what its backward will read;
// `scratch` is given back by whoever took it.
struct Pass {
  Precision precision = Precision::kF32;
  Arena& saved;
  Arena& scratch;
  Recompute recompute = Recompute::kNone;

  // Where what the paper computes again is put by a forward.
  Arena& cheap() const { return recompute == Recompute::kNone ? saved : scratch; }

  DType activation() const { return dtype_of_precision(precision); }
};

// y_TN (+)= x_TK W^T. y FP32 or BF16 (accumulate: FP32), x FP32 or BF16.
void linear(const ops::Matrix& y, const ops::Matrix& x, const Weight& w, bool accumulate,
            const Pass& pass);
// dx_TK (+)= dy_TN W (skipped where dx is empty); dW += dy^T x.
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
