#include "model/linear.h"

#include "ops/norm.h"
#include "ops/permute.h"
#include "ops/quantize_counts.h"

namespace minke::model {

Left Left::row_range(int64_t begin, int64_t rows) const {
  Left out{numbers.row_range(begin, rows), scales, tiles};
  if (out.scales.data != nullptr) out.scales.data += begin * scales.stride;
  return out;
}

Left left_of(const ops::Matrix& x, DType format, int64_t segment, const ops::Fp8Recipe& recipe,
             Arena& scratch) {
  if (format != DType::kE4M3) return {ops::prepare(scratch, x, format)};
  Left left{x, {}, ops::LeftTiles{segment, recipe.scales}};
  left.scales.promote = recipe.promote;
  return left;
}

Left dispatched(const ops::Matrix& x, DType format, const Tensor& tokens,
                const ops::Fp8Recipe& recipe, Arena& scratch) {
  const int64_t R = tokens.dim(0);
  const auto gathered = [&](const ops::Matrix& from) {
    const ops::Matrix rows = scratch.make(from.dtype, {R, from.cols});
    ops::gather_rows(rows, from, tokens);
    return rows;
  };
  if (format != DType::kE4M3) return {gathered(ops::prepare(scratch, x, format))};
  const ops::QuantizedLeft sent = ops::quantize_left(scratch, x, {0, ScaleFormat::kPowerOfTwo});
  Left out{gathered(sent.numbers), sent.scales};
  const Tensor scales(const_cast<float*>(sent.scales.data), {x.rows, sent.scales.stride});
  out.scales.data = static_cast<const float*>(gathered(scales).data);
  out.scales.promote = recipe.promote;
  return out;
}

void add_fprop(std::vector<ops::Product>& products, const ops::Matrix& y, const Left& x,
               const Weight& w, int64_t i, bool accumulate) {
  int64_t column = 0;
  for (const ops::Packed& part : w.fprop_parts(i)) {
    products.push_back({y.columns(column, part.n), x.numbers, part, accumulate, x.scales, x.tiles});
    column += part.n;
  }
}

void add_dgrad(std::vector<ops::Product>& products, const ops::Matrix& dx, const Left& dy,
               const Weight& w, int64_t i, bool accumulate) {
  products.push_back({dx, dy.numbers, w.dgrad(i), accumulate, dy.scales, dy.tiles});
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

void add_linear(std::vector<ops::Product>& products, const Linear& layer, const Pass& pass) {
  const Left left = left_of(layer.x, layer.w.other_side(pass.precision), 0, pass.fp8, pass.scratch);
  add_fprop(products, layer.y, left, layer.w, 0, layer.accumulate);
}

void linear(std::initializer_list<Linear> layers, const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  std::vector<ops::Product> products;
  for (const Linear& layer : layers) add_linear(products, layer, pass);
  ops::matmul(products);
}

void linear(const ops::Matrix& y, const ops::Matrix& x, const Weight& w, bool accumulate,
            const Pass& pass) {
  linear({{y, x, w, accumulate}}, pass);
}

Left left_for_backward(const ops::Matrix& dy, const Weight& w, const Pass& pass) {
  return left_of(dy, w.operand(pass.precision), w.segment(), pass.fp8, pass.scratch);
}

void linear_dgrad(const ops::Matrix& dx, bool accumulate, const Left& dy, const Weight& w) {
  std::vector<ops::Product> products;
  add_dgrad(products, dx, dy, w, 0, accumulate);
  ops::matmul(products);
}

void linear_wgrad(const Left& dy, const ops::Matrix& x, Weight& w, const Pass& pass) {
  const ops::WeightGradient gradient{w.gradient(), dy.numbers, x, w.adds_to_gradient()};
  weight_gradients(std::span(&gradient, 1), w, pass);
}

void linear_backward(const ops::Matrix& dx, bool accumulate, const ops::Matrix& dy,
                     const ops::Matrix& x, Weight& w, const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const ops::QuantizingAs kind("gradients");
  const Left left = left_for_backward(dy, w, pass);
  if (!dx.empty()) linear_dgrad(dx, accumulate, left, w);
  linear_wgrad(left, x, w, pass);
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
