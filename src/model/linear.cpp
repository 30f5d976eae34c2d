#include "model/linear.h"

#include <optional>

#include "ops/norm.h"
#include "ops/permute.h"
#include "ops/quantize_counts.h"

namespace minke::model {

Left Left::row_range(int64_t begin, int64_t rows) const {
  Left out{numbers.row_range(begin, rows), scales};
  if (out.scales.data != nullptr) out.scales.data += begin * scales.stride;
  return out;
}

Left left_of(const ops::Matrix& x, DType format, int64_t segment, const ops::Fp8Recipe& recipe,
             Arena& scratch) {
  if (format != DType::kE4M3) return {ops::prepare(scratch, x, format)};
  ops::QuantizedLeft left = ops::quantize_left(scratch, x, segment, recipe.scales);
  left.scales.promote = recipe.promote;
  return {left.numbers, left.scales};
}

Left gathered(const Left& x, const Tensor& tokens, Arena& scratch) {
  const int64_t R = tokens.dim(0), T = x.numbers.rows, blocks = x.scales.stride;
  Left out{scratch.make(x.numbers.dtype, {R, x.numbers.cols}), x.scales};
  ops::gather_rows(out.numbers, x.numbers, tokens);
  if (x.scales.data == nullptr) return out;
  const Tensor scales = scratch.make(DType::kF32, {R, blocks});
  ops::gather_rows(scales, Tensor(x.scales.data, {T, blocks}), tokens);
  out.scales.data = scales.data<float>();
  return out;
}

void add_fprop(std::vector<ops::Product>& products, const ops::Matrix& y, const Left& x,
               const Weight& w, int64_t i, bool accumulate) {
  int64_t column = 0;
  for (const ops::Packed& part : w.fprop_parts(i)) {
    products.push_back({y.columns(column, part.n), x.numbers, part, accumulate, x.scales});
    column += part.n;
  }
}

void add_dgrad(std::vector<ops::Product>& products, const ops::Matrix& dx, const Left& dy,
               const Weight& w, int64_t i, bool accumulate) {
  products.push_back({dx, dy.numbers, w.dgrad(i), accumulate, dy.scales});
}

void weight_gradients(std::span<const ops::WeightGradient> products, const Weight& w,
                      const Pass& pass) {
  const DType format = w.operand(pass.precision);
  if (format == DType::kE4M3) {
    ops::matmul_wgrad_fp8(products, pass.fp8, pass.scratch);
  } else {
    ops::matmul_wgrad(products, format, pass.scratch);
  }
}

void linear(const ops::Matrix& y, const ops::Matrix& x, const Weight& w, bool accumulate,
            const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  std::vector<ops::Product> products;
  const Left left = left_of(x, w.other_side(pass.precision), 0, pass.fp8, pass.scratch);
  add_fprop(products, y, left, w, 0, accumulate);
  ops::matmul(products);
}

void linear_backward(const ops::Matrix& dx, bool accumulate, const ops::Matrix& dy,
                     const ops::Matrix& x, Weight& w, const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const ops::QuantizingAs kind("gradients");
  const DType format = w.operand(pass.precision);
  ops::WeightGradient gradient{w.gradient(), dy, x, w.adds_to_gradient()};
  {
    // What dgrad reads, a gradient of the weight reads, too, unless it is quantised.
    std::optional<Arena::Scope> of_dgrad;
    if (format == DType::kE4M3) of_dgrad.emplace(pass.scratch);
    const Left left = left_of(dy, format, w.segment(), pass.fp8, pass.scratch);
    std::vector<ops::Product> products;
    if (!dx.empty()) add_dgrad(products, dx, left, w, 0, accumulate);
    ops::matmul(products);
    if (format != DType::kE4M3) gradient.dy = left.numbers;
  }
  weight_gradients(std::span(&gradient, 1), w, pass);
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
