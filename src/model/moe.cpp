#include "model/moe.h"

#include <algorithm>

#include "ops/elementwise.h"
#include "ops/permute.h"
#include "ops/quantize_counts.h"
#include "ops/swiglu_fp8.h"

namespace minke::model {
GateUp::GateUp(int64_t rows, int64_t width, const Pass& pass)
    : numbers((pass.is_fp8() ? pass.scratch : pass.saved).make(pass.activation(), {rows, width})) {
  if (!pass.is_fp8()) return;
  codes = pass.saved.make(DType::kE4M3, {rows, width});
  scale = pass.saved.make(DType::kF32, {rows, ops::quantized_blocks(width, width / 2)});
  format = pass.fp8.scales;
}

void GateUp::forward(const Tensor& h, const Tensor& weight) const {
  const ops::QuantizingAs kind("swiglu_input");
  if (codes.empty()) {
    ops::swiglu(h, numbers, weight);
  } else {
    ops::swiglu_keeping(h, {codes, scale}, numbers, weight, format);
  }
}

void GateUp::backward(const Tensor& d_gate_up, const Tensor& dweight, const Tensor& h,
                      const Tensor& dh, const Tensor& weight) const {
  if (codes.empty()) {
    ops::swiglu_backward(d_gate_up, dweight, h, dh, numbers, weight);
  } else {
    ops::swiglu_backward_kept(d_gate_up, dweight, h, dh, {codes, scale}, weight);
  }
}

Ffn::Ffn(const std::string& prefix, int64_t hidden, int64_t width)
    : gate_up_(
          Weight::stacked({prefix + "gate_proj.weight", prefix + "up_proj.weight"}, width, hidden)),
      down_(Weight::matrix(Weight::Kind::kLinear, prefix + "down_proj.weight", hidden, width)) {}

void Ffn::add_gate_up(std::vector<ops::Product>& products, const Tensor& x_TD, Saved& saved,
                      const Pass& pass) const {
  saved.gate_up = GateUp(x_TD.dim(0), gate_up_.rows(), pass);
  add_linear(products, {saved.gate_up.numbers, x_TD, gate_up_}, pass);
}

void Ffn::activate(Saved& saved, const Pass& pass) const {
  saved.h_TF =
      pass.cheapest().make(pass.activation(), {saved.gate_up.numbers.dim(0), down_.cols()});
  saved.gate_up.forward(saved.h_TF, {});
}

void Ffn::add_down(std::vector<ops::Product>& products, const Tensor& y_TD, const Saved& saved,
                   const Pass& pass) const {
  add_linear(products, {y_TD, saved.h_TF, down_, true}, pass);
}

void Ffn::forward(const Tensor& y_TD, const Tensor& x_TD, Saved& saved, const Pass& pass) const {
  const Arena::Scope scope(pass.scratch);
  std::vector<ops::Product> products;
  add_gate_up(products, x_TD, saved, pass);
  ops::matmul(products);
  activate(saved, pass);
  products.clear();
  add_down(products, y_TD, saved, pass);
  ops::matmul(products);
}

void Ffn::backward(const Tensor& dx_TD, bool accumulate, const Tensor& dy_TD, const Tensor& x_TD,
                   const Saved& saved, const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const ops::QuantizingAs kind("gradients");
  const int64_t T = dy_TD.dim(0);
  Tensor h_TF = saved.h_TF, h_again;
  if (pass.computes_again()) {
    h_TF = h_again = pass.scratch.make(pass.activation(), {T, down_.cols()});
  }
  const Tensor dh_TF = pass.scratch.make(pass.activation(), {T, down_.cols()});
  const Tensor d_gate_up = pass.scratch.make(pass.activation(), {T, gate_up_.rows()});
  {
    const Arena::Scope in_down(pass.scratch);
    const Left dy = left_for_backward(dy_TD, down_, pass);
    linear_dgrad(dh_TF, false, dy, down_);
    saved.gate_up.backward(d_gate_up, {}, h_again, dh_TF, {});
    linear_wgrad(dy, h_TF, down_, pass);
  }
  linear_backward(dx_TD, accumulate, d_gate_up, x_TD, gate_up_, pass);
}

Router::Router(const ModelConfig& config, const std::string& prefix)
    : gate(Weight::matrix(Weight::Kind::kGate, prefix + "gate.weight", config.n_routed_experts,
                          config.hidden_size)),
      bias_name(prefix + "gate.e_score_correction_bias"),
      bias_E(DType::kF32, {config.n_routed_experts}),
      counts_E(DType::kI64, {config.n_routed_experts}),
      how_(config.routing()) {}

double Router::forward(const Tensor& x_TD, int64_t sequences, const Tensor& forced, bool counting,
                       Saved& saved, const Pass& pass) {
  const int64_t T = x_TD.dim(0);
  saved.scores_TE = pass.saved.make(DType::kF32, {T, how_.experts});
  saved.weights_TK = pass.saved.make(DType::kF32, {T, how_.chosen});
  saved.experts_TK = pass.saved.make(DType::kI32, {T, how_.chosen});
  saved.f_BE = pass.saved.make(DType::kF32, {sequences, how_.experts});
  const Arena::Scope scope(pass.scratch);
  const Tensor logits_TE = pass.scratch.make(DType::kF32, {T, how_.experts});
  linear(logits_TE, x_TD, gate, false, pass);
  if (!forced.empty()) {
    std::copy_n(forced.data<int32_t>(), forced.count(), saved.experts_TK.data<int32_t>());
  }
  ops::route(saved.experts_TK, saved.weights_TK, saved.scores_TE, logits_TE,
             has_bias() ? bias_E : Tensor{}, how_, !forced.empty());
  if (counting) ops::count_experts(counts_E, saved.experts_TK);
  if (sequences == 0) return 0;
  return ops::sequence_balance(saved.f_BE, saved.scores_TE, sequences, how_);
}

void Router::backward(const Tensor& dx_TD, const Tensor& dweights_TK, const Tensor& x_TD,
                      int64_t sequences, float balance_scale, const Saved& saved,
                      const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const Tensor dlogits_TE = pass.scratch.make(DType::kF32, saved.scores_TE.shape());
  ops::router_backward(dlogits_TE, dweights_TK, saved.experts_TK, saved.scores_TE, saved.f_BE,
                       sequences, balance_scale, how_);
  linear_backward(dx_TD, false, dlogits_TE, x_TD, gate, pass);
}

Moe::Moe(const ModelConfig& config, const std::string& prefix)
    : router(config, prefix),
      experts_(config.n_routed_experts),
      chosen_(config.num_experts_per_tok),
      gate_up_(Weight::experts(prefix + "experts.", experts_, {"gate_proj", "up_proj"},
                               config.moe_intermediate_size, config.hidden_size)),
      down_(Weight::experts(prefix + "experts.", experts_, {"down_proj"}, config.hidden_size,
                            config.moe_intermediate_size)) {
  if (config.n_shared_experts > 0) {
    shared_ = Ffn(prefix + "shared_experts.", config.hidden_size,
                  config.moe_intermediate_size * config.n_shared_experts);
  }
}

std::vector<ops::Product> Moe::grouped(decltype(add_fprop) add, const ops::Matrix& out,
                                       const Left& in, const Weight& w,
                                       const std::vector<int64_t>& offsets) const {
  std::vector<ops::Product> products;
  for (int64_t e = 0; e < experts_; ++e) {
    const int64_t begin = offsets[static_cast<size_t>(e)];
    const int64_t rows = offsets[static_cast<size_t>(e) + 1] - begin;
    if (rows > 0) add(products, out.row_range(begin, rows), in.row_range(begin, rows), w, e, false);
  }
  return products;
}

void Moe::grouped_wgrad(Weight& weight, const Tensor& dy, const Tensor& x,
                        const std::vector<int64_t>& offsets, const Pass& pass) {
  const bool adds = weight.adds_to_gradient();
  std::vector<ops::WeightGradient> products;
  for (int64_t e = 0; e < experts_; ++e) {
    const int64_t begin = offsets[static_cast<size_t>(e)];
    const int64_t rows = offsets[static_cast<size_t>(e) + 1] - begin;
    products.push_back({weight.gradient(e), dy.rows(begin, rows), x.rows(begin, rows), adds});
  }
  weight_gradients(products, weight, pass);
}

double Moe::forward(const Tensor& y_TD, const Tensor& x_TD, int64_t sequences, const Tensor& forced,
                    bool counting, Saved& s, const Pass& pass) {
  const int64_t T = x_TD.dim(0), R = T * chosen_;
  const DType act = pass.activation();
  const double balance = router.forward(x_TD, sequences, forced, counting, s.route, pass);

  s.token_R = pass.saved.make(DType::kI32, {R});
  s.row_TK = pass.saved.make(DType::kI32, {T, chosen_});
  s.weight_R = pass.saved.make(DType::kF32, {R});
  s.offsets.resize(static_cast<size_t>(experts_) + 1);
  ops::sort_by_expert(s.offsets, s.token_R, s.row_TK, s.route.experts_TK);
  ops::gather_weights(s.weight_R, s.route.weights_TK, s.row_TK);

  const Arena::Scope scope(pass.scratch);
  s.gate_up = GateUp(R, gate_up_.rows(), pass);
  const DType format = down_.other_side(pass.precision);
  const Left x_R = dispatched(x_TD, format, s.token_R, pass.fp8, pass.scratch);
  std::vector<ops::Product> products =
      grouped(add_fprop, s.gate_up.numbers, x_R, gate_up_, s.offsets);
  if (shared_.exists()) shared_.add_gate_up(products, x_TD, s.shared, pass);
  ops::matmul(products);
  s.h_RF = pass.cheapest().make(act, {R, down_.cols()});
  s.gate_up.forward(s.h_RF, s.weight_R);
  if (shared_.exists()) shared_.activate(s.shared, pass);
  // The gathered input is done with, and its place is taken where it is as large.
  const ops::Matrix y_RD =
      format == DType::kI8 ? ops::Matrix(pass.scratch.make(act, {R, y_TD.dim(1)})) : x_R.numbers;
  {
    const Arena::Scope in_down(pass.scratch);
    const Left h = left_of(s.h_RF, format, 0, pass.fp8, pass.scratch);
    products = grouped(add_fprop, y_RD, h, down_, s.offsets);
    if (shared_.exists()) shared_.add_down(products, y_TD, s.shared, pass);
    ops::matmul(products);
  }
  ops::combine_rows(y_TD, true, y_RD, s.row_TK);
  return balance;
}

void Moe::backward(const Tensor& dx_TD, const Tensor& dy_TD, const Tensor& x_TD, int64_t sequences,
                   float balance_scale, const Saved& s, const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const ops::QuantizingAs kind("gradients");
  const DType act = pass.activation(), format = down_.other_side(pass.precision);
  const int64_t R = s.token_R.dim(0), D = dy_TD.dim(1), F = down_.cols();
  const bool fp8 = format == DType::kE4M3;
  const Tensor rows_RD = pass.scratch.make(act, {R, D});
  ops::gather_rows(rows_RD, dy_TD, s.token_R);
  Tensor h_RF = s.h_RF, h_again;
  if (pass.computes_again()) h_RF = h_again = pass.scratch.make(act, {R, F});
  const Tensor dh_RF = pass.scratch.make(act, {R, F});
  {
    const Arena::Scope in_down(pass.scratch);
    const Left dy_R =
        fp8 ? dispatched(dy_TD, format, s.token_R, pass.fp8, pass.scratch) : Left{rows_RD};
    ops::matmul(grouped(add_dgrad, dh_RF, dy_R, down_, s.offsets));
  }
  const Tensor d_gate_up = pass.scratch.make(act, {R, 2 * F});
  const Tensor dweight_R = pass.scratch.make(DType::kF32, {R});
  s.gate_up.backward(d_gate_up, dweight_R, h_again, dh_RF, s.weight_R);
  grouped_wgrad(down_, rows_RD, h_RF, s.offsets, pass);

  const Tensor dweights_TK = pass.scratch.make(DType::kF32, s.route.weights_TK.shape());
  ops::scatter_weights(dweights_TK, dweight_R, s.row_TK);
  router.backward(dx_TD, dweights_TK, x_TD, sequences, balance_scale, s.route, pass);

  ops::gather_rows(rows_RD, x_TD, s.token_R);
  grouped_wgrad(gate_up_, d_gate_up, rows_RD, s.offsets, pass);
  {
    const Arena::Scope in_gate_up(pass.scratch);
    const Left dy = left_of(d_gate_up, format, gate_up_.segment(), pass.fp8, pass.scratch);
    ops::matmul(grouped(add_dgrad, rows_RD, dy, gate_up_, s.offsets));
  }
  ops::combine_rows(dx_TD, true, rows_RD, s.row_TK);
  if (shared_.exists()) shared_.backward(dx_TD, true, dy_TD, x_TD, s.shared, pass);
}

}  // namespace minke::model
