// The linear layer y = x W^T and RMSNorm with a weight: forward and backward.
#pragma once

#include "model/weight.h"

namespace minke::model {

// What a pass computes with. `saved` is filled by a forward with what its backward will read;
// `scratch` is given back by whoever took it.
struct Pass {
  Precision precision = Precision::kF32;
  Arena& saved;
  Arena& scratch;

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
