// A transformer block: x += MLA(norm(x)); x += FFN or MoE(norm(x)). The residual stream is FP32 in
// every precision; what the norms read of it, and what is kept of it, has the run's activation
// type.
#pragma once

#include <optional>

#include "model/mla.h"
#include "model/moe.h"

namespace minke::model {

// A copy for the backward pass, in the run's activation type.
Tensor keep(const Tensor& x, const Pass& pass);

class Block {
 public:
  Block(const ModelConfig& config, int64_t layer);

  struct Saved {
    Tensor x_f32, forced_experts;  // where the whole block is computed again, and nothing else
    Tensor x_in, x_mid;
    Tensor attention_in, ffn_in;  // normed
    RmsNorm::Saved input_norm, post_norm;
    Mla::Saved mla;
    Ffn::Saved ffn;
    Moe::Saved moe;
  };
  // x_TD FP32, in place. Returns the layer's balance loss summed over sequences (0 for a dense
  // layer).
  double forward(const Tensor& x_TD, const Layout& layout, const RopeTables& tables,
                 const Tensor& forced_experts, bool counting, Saved& saved, const Pass& pass);
  // dx_TD FP32: the gradient of the output, replaced by that of the input.
  void backward(const Tensor& dx_TD, const Layout& layout, const RopeTables& tables,
                float balance_scale, const Saved& saved, const Pass& pass);
  // x_MD FP32, in place: its last `outputs` rows, see Mla::decode. Needs no Saved: pass.saved is
  // given back at the end. forced_experts, chosen_experts: I32 [outputs, K], to use instead of
  // choosing, and to be told; may be empty.
  void decode(const Tensor& x_MD, int64_t outputs, std::span<const CacheRow> rows,
              const RopeTables& tables, const Tensor& forced_experts, const Tensor& chosen_experts,
              const Pass& pass);

  int64_t layer() const { return layer_; }
  Mla& mla() { return mla_; }
  Router* router() { return moe_ ? &moe_->router : nullptr; }

  template <typename Visit>
  void for_each_weight(Visit&& visit) {
    visit(input_norm_.weight);
    mla_.for_each_weight(visit);
    visit(post_norm_.weight);
    if (moe_) {
      moe_->for_each_weight(visit);
    } else {
      ffn_.for_each_weight(visit);
    }
  }

 private:
  double run(const Tensor& x_TD, const Layout& layout, const RopeTables& tables,
             const Tensor& forced_experts, bool counting, Saved& saved, const Pass& pass);
  void differentiate(const Tensor& dx_TD, const Layout& layout, const RopeTables& tables,
                     float balance_scale, const Saved& saved, const Pass& pass);

  int64_t layer_;
  RmsNorm input_norm_, post_norm_;
  Mla mla_;
  Ffn ffn_;                 // dense layers
  std::optional<Moe> moe_;  // the others
};

}  // namespace minke::model
