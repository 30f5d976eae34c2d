// Kernels of SwiGLU, conversions and sums.
#pragma once

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

struct SwigluRows {
  Matrix gate_up;
  const float* weight;   // one a row, may be null
  Matrix d_gate_up, dh;  // backward
  float* dweight;        // backward, may be null
  Matrix h;              // backward: the output again, of gate_up's format; may be empty
  bool streams;          // what is written, whose rows begin at cache lines, goes past the caches
};

struct ElementwiseKernels {
  // Rows [begin, end); by the formats of h and gate_up.
  void (*swiglu[2][2])(const Matrix& h, const SwigluRows& in, int64_t begin, int64_t end);
  // By the formats of d_gate_up, dh and gate_up.
  void (*swiglu_backward[2][2][2])(const SwigluRows& in, int64_t begin, int64_t end);
  // n numbers that lie side by side; by the formats of to and from.
  void (*convert[2][2])(void* to, const void* from, int64_t n);
  // y += x; by the format of x.
  void (*add[2])(float* y, const void* x, int64_t n);
  // In double, in 16 running sums: the same on every instruction set.
  double (*sum_of_squares)(const float* x, int64_t n);
};
MINKE_DECLARE_KERNELS(ElementwiseKernels, elementwise_kernels)

}  // namespace minke::ops::kernels
