// SwiGLU whose input is kept in E4M3 (V3 report, section 3.3.3). Rows go through all that is done
// to them while they lie in a core's caches.
#pragma once

#include "ops/matrix.h"
#include "tensor/scales.h"

namespace minke::ops {

// gate_up [T, 2F] as quantize_rows makes it, in segments of F.
struct KeptGateUp {
  Matrix codes, scale;
};
// h_TF = swiglu(gate_up, weight) (ops/elementwise.h), and kept = gate_up quantised.
void swiglu_keeping(const Matrix& h_TF, const KeptGateUp& kept, const Matrix& gate_up,
                    const Tensor& weight_T, ScaleFormat format);
// As swiglu_backward, of what was kept, in BF16; h_TF is always asked for.
void swiglu_backward_kept(const Matrix& d_gate_up, const Tensor& dweight_T, const Matrix& h_TF,
                          const Matrix& dh_TF, const KeptGateUp& kept, const Tensor& weight_T);

}  // namespace minke::ops
