#include "model/linear.h"

#include "ops/norm.h"

namespace minke::model {

void linear(const ops::Matrix& y, const ops::Matrix& x, const Weight& w, bool accumulate,
            const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const DType format = w.other_side(pass.precision);
  ops::matmul({y, ops::prepare(pass.scratch, x, format), w.fprop(), accumulate});
}

void linear_backward(const ops::Matrix& dx, bool accumulate, const ops::Matrix& dy,
                     const ops::Matrix& x, Weight& w, const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const DType format = w.operand(pass.precision);
  const ops::Matrix operand = ops::prepare(pass.scratch, dy, format);
  if (!dx.empty()) ops::matmul({dx, operand, w.dgrad(), accumulate});
  const ops::WeightGradient product{w.gradient(), operand, x, w.adds_to_gradient()};
  ops::matmul_wgrad(std::span(&product, 1), format, pass.scratch);
}

void RmsNorm::forward(const ops::Matrix& y, const ops::Matrix& x, Saved& saved,
                      const Pass& pass) const {
  saved.rstd_T = pass.saved.make(DType::kF32, {x.rows});
  ops::rms_norm(y, saved.rstd_T, x, weight.master(), eps);
}

void RmsNorm::forward(const ops::Matrix& y, const ops::Matrix& x) const {
  ops::rms_norm(y, {}, x, weight.master(), eps);
}

void RmsNorm::backward(const ops::Matrix& dx, bool accumulate, const ops::Matrix& dy,
                       const ops::Matrix& x, const Saved& saved, const Pass& pass) const {
  ops::rms_norm_backward(dx, accumulate, weight.gradient(), dy, x, saved.rstd_T, weight.master(),
                         pass.scratch);
}

}  // namespace minke::model
