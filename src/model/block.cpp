#include "model/block.h"

#include <algorithm>

#include "ops/elementwise.h"

namespace minke::model {
namespace {

std::string prefix_of(int64_t layer) { return fmt::format("model.layers.{}.", layer); }

}  // namespace

Tensor keep(const Tensor& x, const Pass& pass) {
  const Tensor kept = pass.saved.make(pass.activation(), x.shape());
  ops::convert(kept, x);
  return kept;
}

Block::Block(const ModelConfig& config, int64_t layer)
    : layer_(layer), mla_(config, prefix_of(layer) + "self_attn.") {
  const std::string prefix = prefix_of(layer);
  const auto eps = static_cast<float>(config.rms_norm_eps);
  input_norm_ = {Weight::vector(prefix + "input_layernorm.weight", config.hidden_size), eps};
  post_norm_ = {Weight::vector(prefix + "post_attention_layernorm.weight", config.hidden_size),
                eps};
  if (config.is_dense(layer)) {
    ffn_ = Ffn(prefix + "mlp.", config.hidden_size, config.intermediate_size);
  } else {
    moe_.emplace(config, prefix + "mlp.");
  }
}

double Block::forward(const Tensor& x_TD, const Layout& layout, const RopeTables& tables,
                      const Tensor& forced_experts, bool counting, Saved& s, const Pass& pass) {
  if (pass.recompute != Recompute::kBlock) {
    return run(x_TD, layout, tables, forced_experts, counting, s, pass);
  }
  s.x_f32 = pass.saved.make(DType::kF32, x_TD.shape());
  ops::convert(s.x_f32, x_TD);
  s.forced_experts = forced_experts;
  const Arena::Scope scope(pass.saved);
  Saved passing;
  return run(x_TD, layout, tables, forced_experts, counting, passing, pass.with(Recompute::kNone));
}

double Block::run(const Tensor& x_TD, const Layout& layout, const RopeTables& tables,
                  const Tensor& forced_experts, bool counting, Saved& s, const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  s.x_in = keep(x_TD, pass);
  s.attention_in = pass.cheapest().make(pass.activation(), x_TD.shape());
  input_norm_.forward(s.attention_in, s.x_in, s.input_norm, pass);
  mla_.forward(x_TD, s.attention_in, layout, tables, s.mla, pass);

  s.x_mid = keep(x_TD, pass);
  s.ffn_in = pass.cheapest().make(pass.activation(), x_TD.shape());
  post_norm_.forward(s.ffn_in, s.x_mid, s.post_norm, pass);
  if (moe_) {
    return moe_->forward(x_TD, s.ffn_in, layout.batch, forced_experts, counting, s.moe, pass);
  }
  ffn_.forward(x_TD, s.ffn_in, s.ffn, pass);
  return 0;
}

void Block::backward(const Tensor& dx_TD, const Layout& layout, const RopeTables& tables,
                     float balance_scale, const Saved& s, const Pass& pass) {
  if (pass.recompute != Recompute::kBlock) {
    differentiate(dx_TD, layout, tables, balance_scale, s, pass);
    return;
  }
  const Arena::Scope saved(pass.saved), scratch(pass.scratch);
  const Pass whole = pass.with(Recompute::kNone);
  Saved again;
  const Tensor x = pass.scratch.make(DType::kF32, dx_TD.shape());
  ops::convert(x, s.x_f32);
  // Tokens were counted the first time.
  run(x, layout, tables, s.forced_experts, false, again, whole);
  differentiate(dx_TD, layout, tables, balance_scale, again, whole);
}

void Block::differentiate(const Tensor& dx_TD, const Layout& layout, const RopeTables& tables,
                          float balance_scale, const Saved& s, const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const Tensor dnormed = pass.scratch.make(DType::kF32, dx_TD.shape());
  Tensor attention_in = s.attention_in, ffn_in = s.ffn_in;
  if (pass.computes_again()) {
    attention_in = ffn_in = pass.scratch.make(pass.activation(), dx_TD.shape());
    post_norm_.forward(ffn_in, s.x_mid);
  }
  if (moe_) {
    moe_->backward(dnormed, dx_TD, ffn_in, layout.batch, balance_scale, s.moe, pass);
  } else {
    ffn_.backward(dnormed, false, dx_TD, ffn_in, s.ffn, pass);
  }
  post_norm_.backward(dx_TD, true, dnormed, s.x_mid, s.post_norm, pass);
  if (pass.computes_again()) input_norm_.forward(attention_in, s.x_in);
  mla_.backward(dnormed, dx_TD, attention_in, layout, tables, s.mla, pass);
  input_norm_.backward(dx_TD, true, dnormed, s.x_in, s.input_norm, pass);
}

void Block::decode(const Tensor& x_MD, int64_t outputs, std::span<const CacheRow> rows,
                   const RopeTables& tables, const Tensor& forced_experts,
                   const Tensor& chosen_experts, const Pass& pass) {
  const Arena::Scope scope(pass.saved);
  const Tensor normed_MD = pass.saved.make(pass.activation(), x_MD.shape());
  const Tensor rounded_MD = pass.saved.make(pass.activation(), x_MD.shape());
  ops::convert(rounded_MD, x_MD);
  input_norm_.forward(normed_MD, rounded_MD);
  const Tensor x = x_MD.rows(x_MD.dim(0) - outputs, outputs);
  mla_.decode(x, normed_MD, rows, layer_, tables, pass);
  const Tensor normed = normed_MD.rows(0, outputs), rounded = rounded_MD.rows(0, outputs);
  ops::convert(rounded, x);
  post_norm_.forward(normed, rounded);
  if (moe_) {
    Moe::Saved saved;
    moe_->forward(x, normed, 0, forced_experts, false, saved, pass);
    if (!chosen_experts.empty()) {
      std::ranges::copy(saved.route.experts_TK.span<int32_t>(),
                        chosen_experts.span<int32_t>().begin());
    }
  } else {
    Ffn::Saved saved;
    ffn_.forward(x, normed, saved, pass);
  }
}

}  // namespace minke::model
