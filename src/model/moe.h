// Feed-forward layers: the dense SwiGLU one, and DeepSeekMoE (V3 report, section 2.1.2):
// fine-grained routed experts, shared experts that see every token, and a router balanced without
// an auxiliary loss.
#pragma once

#include <span>

#include "model/config.h"
#include "model/linear.h"

namespace minke::model {

// What SwiGLU reads, and what is kept of it: in FP8, codes (V3 report, section 3.3.3).
struct GateUp {
  Tensor numbers, codes, scale;
  ScaleFormat format = ScaleFormat::kF32;

  // Where a product writes it.
  GateUp(int64_t rows, int64_t width, const Pass& pass);
  GateUp() = default;
  // Once it is written: h = SwiGLU of it, and what the backward reads is kept. weight: see
  // ops::swiglu.
  void forward(const Tensor& h, const Tensor& weight) const;
  // From what is kept: h again where it has memory, and see ops::swiglu_backward.
  void backward(const Tensor& d_gate_up, const Tensor& dweight, const Tensor& h, const Tensor& dh,
                const Tensor& weight) const;
};

// y += down(silu(gate(x)) * up(x))
class Ffn {
 public:
  Ffn() = default;
  Ffn(const std::string& prefix, int64_t hidden, int64_t width);
  bool exists() const { return gate_up_.exists(); }

  struct Saved {
    GateUp gate_up;
    Tensor h_TF;  // SwiGLU's output
  };
  void forward(const Tensor& y_TD, const Tensor& x_TD, Saved& saved, const Pass& pass) const;
  // The same in steps, for products beside others: gate_up's, what is between, then down's, whose
  // left sides are in scratch.
  void add_gate_up(std::vector<ops::Product>& products, const Tensor& x_TD, Saved& saved,
                   const Pass& pass) const;
  void activate(Saved& saved, const Pass& pass) const;
  void add_down(std::vector<ops::Product>& products, const Tensor& y_TD, const Saved& saved,
                const Pass& pass) const;
  // dx_TD (FP32) += where accumulate, else overwritten.
  void backward(const Tensor& dx_TD, bool accumulate, const Tensor& dy_TD, const Tensor& x_TD,
                const Saved& saved, const Pass& pass);

  template <typename Visit>
  void for_each_weight(Visit&& visit) {
    visit(gate_up_);
    visit(down_);
  }

 private:
  Weight gate_up_, down_;
};

// The choice of experts: gate, correction bias, counts.
class Router {
 public:
  Router() = default;
  Router(const ModelConfig& config, const std::string& prefix);

  struct Saved {
    Tensor experts_TK, weights_TK, scores_TE, f_BE;
  };
  // forced: experts to use instead of choosing, I32 [T, K] ascending; empty: choose. Adds to the
  // counts where `counting`. Returns the balance loss: the sum over sequences of sum_i f_i P_i; 0
  // where there are no sequences, but rows of a cache.
  double forward(const Tensor& x_TD, int64_t sequences, const Tensor& forced, bool counting,
                 Saved& saved, const Pass& pass);
  // dx_TD (FP32) is overwritten.
  void backward(const Tensor& dx_TD, const Tensor& dweights_TK, const Tensor& x_TD,
                int64_t sequences, float balance_scale, const Saved& saved, const Pass& pass);

  Weight gate;
  bool has_bias() const { return how_.method == ops::TopkMethod::kNoauxTc; }
  std::string bias_name;
  OwnedTensor bias_E;    // FP32: e_score_correction_bias
  OwnedTensor counts_E;  // I64: tokens since the counts were last cleared
  const ops::Routing& how() const { return how_; }

 private:
  ops::Routing how_;
};

class Moe {
 public:
  Moe(const ModelConfig& config, const std::string& prefix);

  struct Saved {
    Router::Saved route;
    Tensor token_R, row_TK, weight_R, h_RF;
    GateUp gate_up;
    std::vector<int64_t> offsets;
    Ffn::Saved shared;
  };
  // y_TD += the layer's output; returns Router::forward's balance loss.
  double forward(const Tensor& y_TD, const Tensor& x_TD, int64_t sequences, const Tensor& forced,
                 bool counting, Saved& saved, const Pass& pass);
  void backward(const Tensor& dx_TD, const Tensor& dy_TD, const Tensor& x_TD, int64_t sequences,
                float balance_scale, const Saved& saved, const Pass& pass);

  Router router;

  template <typename Visit>
  void for_each_weight(Visit&& visit) {
    visit(router.gate);
    visit(gate_up_);
    visit(down_);
    if (shared_.exists()) shared_.for_each_weight(visit);
  }

 private:
  // For each expert, rows [offsets[e], offsets[e + 1]): add_fprop or add_dgrad.
  std::vector<ops::Product> grouped(decltype(add_fprop) add, const ops::Matrix& out, const Left& in,
                                    const Weight& w, const std::vector<int64_t>& offsets) const;
  void grouped_wgrad(Weight& weight, const Tensor& dy, const Tensor& x,
                     const std::vector<int64_t>& offsets, const Pass& pass);

  int64_t experts_, chosen_;
  Weight gate_up_, down_;
  Ffn shared_;
};

}  // namespace minke::model
