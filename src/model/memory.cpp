#include "model/memory.h"

#include <algorithm>

namespace minke::model {
namespace {

// Adds up tensors as an Arena places them.
class Sum {
 public:
  explicit Sum(Precision precision) : activation_(dtype_of_precision(precision)) {}
  void kept(int64_t rows, int64_t width) { arena_.make(activation_, {rows, width}); }
  void f32(int64_t rows, int64_t width) { arena_.make(DType::kF32, {rows, width}); }
  size_t bytes() const { return arena_.used(); }

 private:
  DType activation_;
  Arena arena_{Arena::Counting{}};
};

void add_block(Sum& sum, const ModelConfig& c, int64_t layer, int64_t B, int64_t T) {
  const int64_t H = c.num_attention_heads;
  for (int i = 0; i < 4; ++i) sum.kept(T, c.hidden_size);  // two of the stream, two normed
  for (int i = 0; i < 3; ++i) sum.f32(T, 1);               // their norms' and the latent's
  sum.kept(T, H * c.qk_head_dim());
  if (c.q_lora_rank > 0) {
    sum.kept(T, c.q_lora_rank);
    sum.kept(T, c.q_lora_rank);
    sum.f32(T, 1);
  }
  sum.kept(T, c.latent_width());
  sum.kept(T, c.kv_lora_rank);
  sum.kept(T, c.qk_rope_head_dim);
  sum.kept(T, H * (c.qk_nope_head_dim + c.v_head_dim));
  sum.kept(T, H * c.v_head_dim);
  sum.f32(T, H);
  if (c.is_dense(layer)) {
    sum.kept(T, 2 * c.intermediate_size);
    return;
  }
  const int64_t E = c.n_routed_experts, R = T * c.num_experts_per_tok;
  sum.f32(T, E);
  sum.f32(B, E);
  for (int i = 0; i < 5; ++i) sum.f32(R, 1);  // experts and weights by token; token, row, weight
  sum.kept(R, 2 * c.moe_intermediate_size);
  if (c.n_shared_experts > 0) sum.kept(T, 2 * c.moe_intermediate_size * c.n_shared_experts);
}

size_t activations(const ModelConfig& c, Precision precision, int64_t B, int64_t S) {
  const int64_t T = B * S, D = c.hidden_size;
  Sum sum(precision);
  for (int64_t n = 0; n < c.layers(); ++n) add_block(sum, c, n, B, T);
  for (int64_t k = 0; k <= c.num_nextn_predict_layers; ++k) {
    sum.kept(T, D);  // the output of the last block and what the head reads
    sum.kept(T, D);
    sum.f32(T, 1);
    sum.f32(T, D);  // the gradient that comes back from the head
    if (k > 0) {
      sum.kept(T, 2 * D);
      sum.f32(T, 1);
      sum.f32(T, 1);
    }
  }
  return sum.bytes();
}

// The widest moments of a backward: a MoE layer's, a dense layer's, or the head's.
size_t workspace(const ModelConfig& c, Precision precision, int64_t T) {
  const int64_t D = c.hidden_size, F = c.moe_intermediate_size, V = c.vocab_size;
  const int64_t I = c.intermediate_size, R = T * c.num_experts_per_tok;
  const auto measure = [&](auto&& add) {
    Sum sum(precision);
    sum.f32(T, D);  // the gradient of the stream, and of a normed input
    sum.f32(T, D);
    add(sum);
    return sum.bytes();
  };
  const size_t moe = measure([&](Sum& sum) {
    sum.kept(R, D);
    sum.kept(R, 4 * F);
    sum.kept(R, 2 * F + D);  // operands of the gradient of gate and up
  });
  const size_t dense = measure([&](Sum& sum) {
    sum.kept(T, 4 * I);
    sum.kept(T, 2 * I + D);
  });
  const size_t attention = measure([&](Sum& sum) {
    const int64_t heads = c.num_attention_heads;
    sum.kept(T, 3 * heads * (c.qk_head_dim() + c.qk_nope_head_dim + 2 * c.v_head_dim));
    sum.f32(T, heads * c.qk_rope_head_dim);
  });
  const size_t head = measure([&](Sum& sum) {
    const int64_t rows = std::min<int64_t>(T, 512);
    sum.f32(rows, V);
    sum.kept(rows, 2 * V + D);
  });
  return std::max({moe, dense, attention, head});
}

}  // namespace

StepMemory step_memory(const ModelConfig& config, Precision precision, int64_t sequences,
                       int64_t positions) {
  StepMemory out;
  Transformer model(config, precision);
  model.for_each_weight([&](Weight& weight) {
    out.weights += static_cast<size_t>(weight.numbers()) * sizeof(float);
  });
  out.gradients = out.weights;
  out.moments = 2 * out.weights;
  out.operands = model.packed_size(true);
  out.activations = activations(config, precision, sequences, positions);
  out.workspace = workspace(config, precision, sequences * positions);
  return out;
}

}  // namespace minke::model
