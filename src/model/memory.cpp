#include "model/memory.h"

#include <algorithm>

#include "ops/attention.h"
#include "ops/cross_entropy.h"
#include "ops/norm.h"

namespace minke::model {
namespace {

// Adds up tensors as an Arena places them.
class Sum {
 public:
  explicit Sum(Precision precision)
      : activation_(dtype_of_precision(precision)), fp8_(precision == Precision::kFp8) {}
  bool fp8() const { return fp8_; }
  void codes(int64_t rows, int64_t width, int64_t segment) {
    arena_.make(DType::kE4M3, {rows, width});
    f32(rows, ops::quantized_blocks(width, segment));
  }
  void attention_output(int64_t rows, int64_t width) {
    if (!fp8_) return kept(rows, width);
    arena_.make(DType::kU8, {rows, ops::e5m6_bytes(width)});
    f32(rows, ops::quantized_blocks(width, 0));
  }
  void kept(int64_t rows, int64_t width) { arena_.make(activation_, {rows, width}); }
  void f32(int64_t rows, int64_t width) { arena_.make(DType::kF32, {rows, width}); }
  size_t bytes() const { return arena_.used(); }

 private:
  DType activation_;
  bool fp8_;
  Arena arena_{Arena::Counting{}};
};

// What is kept of a block that is computed again from less, or not at all.
void add_block(Sum& sum, const ModelConfig& c, int64_t layer, int64_t B, int64_t T, bool paper) {
  const int64_t H = c.num_attention_heads;
  sum.kept(T, c.hidden_size);  // the stream, twice
  sum.kept(T, c.hidden_size);
  for (int i = 0; i < 3; ++i) sum.f32(T, 1);  // the norms' and the latent's
  if (!paper && !sum.fp8()) {
    sum.kept(T, c.hidden_size);  // normed, twice
    sum.kept(T, c.hidden_size);
  }
  if (!paper) {
    sum.kept(T, H * c.qk_head_dim());
    sum.kept(T, c.kv_lora_rank);
    sum.kept(T, H * (c.qk_nope_head_dim + c.v_head_dim));
    if (c.q_lora_rank > 0) sum.kept(T, c.q_lora_rank);
  }
  if (c.q_lora_rank > 0) {
    sum.kept(T, c.q_lora_rank);
    sum.f32(T, 1);
  }
  sum.kept(T, c.latent_width());
  sum.kept(T, c.qk_rope_head_dim);
  sum.attention_output(T, H * c.v_head_dim);
  sum.f32(T, H);
  const auto feed_forward = [&](int64_t rows, int64_t width) {
    if (sum.fp8()) return sum.codes(rows, 2 * width, width);
    sum.kept(rows, 2 * width);
    if (!paper) sum.kept(rows, width);
  };
  if (c.is_dense(layer)) return feed_forward(T, c.intermediate_size);
  const int64_t E = c.n_routed_experts, R = T * c.num_experts_per_tok;
  sum.f32(T, E);
  sum.f32(B, E);
  for (int i = 0; i < 5; ++i) sum.f32(R, 1);  // experts and weights by token; token, row, weight
  feed_forward(R, c.moe_intermediate_size);
  if (c.n_shared_experts > 0) feed_forward(T, c.moe_intermediate_size * c.n_shared_experts);
}

size_t activations(const ModelConfig& c, Precision precision, int64_t B, int64_t S,
                   Recompute recompute) {
  const int64_t T = B * S, D = c.hidden_size;
  Sum sum(precision);
  size_t widest = 0;  // of the blocks, of which one is computed again at a time
  for (int64_t n = 0; n < c.layers(); ++n) {
    if (recompute == Recompute::kBlock) {
      sum.f32(T, D);
      Sum block(precision);
      add_block(block, c, n, B, T, false);
      widest = std::max(widest, block.bytes());
    } else {
      add_block(sum, c, n, B, T, recompute == Recompute::kPaper);
    }
  }
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
  return sum.bytes() + widest;
}

// What a step takes for a moment: it goes through the modules as they run, and asks the ops that
// take workspace what they take.
class Workspace {
 public:
  Workspace(const ModelConfig& c, Precision precision, int64_t B, int64_t S, Recompute recompute,
            const ops::Fp8Recipe& recipe)
      : c_(c),
        act_(dtype_of_precision(precision)),
        B_(B),
        S_(S),
        T_(B * S),
        paper_(recompute == Recompute::kPaper),
        block_(recompute == Recompute::kBlock),
        fp8_(precision == Precision::kFp8),
        again_(paper_ || fp8_),
        recipe_(recipe) {}

  size_t peak() {
    forward();
    head();
    {
      const Arena::Scope scope(arena_);
      f32(T_, c_.hidden_size);  // the stream's gradient
      {
        const Arena::Scope in_block(arena_);
        if (block_) {
          f32(T_, c_.hidden_size);  // the stream, computed again
          modules_forward();
        }
        f32(T_, c_.hidden_size);               // a normed input's
        if (again_) kept(T_, c_.hidden_size);  // the input
        norm(c_.hidden_size);
        mla_backward();
        if (c_.first_k_dense_replace > 0) ffn_backward(c_.intermediate_size);
        if (c_.first_k_dense_replace < c_.layers()) moe_backward();
      }
      if (c_.num_nextn_predict_layers > 0) {
        kept(T_, 2 * c_.hidden_size);
        head_backward(c_.hidden_size, 2 * c_.hidden_size);
        f32(T_, c_.hidden_size);
        norm(c_.hidden_size);
      }
    }
    return arena_.peak();
  }

 private:
  Tensor kept(int64_t rows, int64_t width) { return arena_.make(act_, {rows, width}); }
  Tensor f32(int64_t rows, int64_t width) { return arena_.make(DType::kF32, {rows, width}); }

  // The rows that experts read of one [T, width].
  void dispatched(int64_t width) {
    if (!fp8_) return;
    const Tensor x(static_cast<float*>(nullptr), {T_, width});
    ops::quantize_left(arena_, x, {});
    kept(routed(), width);
    f32(routed(), ops::quantized_blocks(width, 0));
  }
  // dy [T, out] of `dy` meets x [T, in], both packed for the gradient of the weight.
  void linear_backward(int64_t out, int64_t in, DType dy) {
    const Arena::Scope scope(arena_);
    if (!fp8_ && dy != act_) kept(T_, out);
    wgrad({T_}, out, in);
  }
  void head_backward(int64_t out, int64_t in) {
    const Arena::Scope scope(arena_);
    if (act_ != DType::kF32) kept(T_, out);
    plain_wgrad({T_}, out, in, act_);
  }
  void wgrad(const std::vector<int64_t>& rows, int64_t out, int64_t in) {
    if (!fp8_) return plain_wgrad(rows, out, in, act_);
    std::vector<ops::WeightGradient> products;
    const auto shape = [](int64_t n, int64_t width) {
      return ops::Matrix(nullptr, DType::kF32, n, width, width);
    };
    for (const int64_t n : rows) {
      products.push_back({shape(out, in), shape(n, out), shape(n, in), false});
    }
    ops::matmul_wgrad_fp8(products, recipe_, arena_);
  }
  void plain_wgrad(const std::vector<int64_t>& rows, int64_t out, int64_t in, DType format) {
    const Arena::Scope scope(arena_);
    for (const int64_t n : rows) {
      arena_.make(DType::kU8, {static_cast<int64_t>(ops::packed_bytes(format, out, n))});
      arena_.make(DType::kU8, {static_cast<int64_t>(ops::packed_bytes(format, in, n))});
    }
  }
  void norm(int64_t width) {
    const Arena::Scope scope(arena_);
    f32(std::min<int64_t>(T_, ops::kNormBackwardBlocks), width);
  }

  void forward() {
    const Arena::Scope scope(arena_);
    f32(T_, c_.hidden_size);  // the stream
    modules_forward();
  }
  void modules_forward() {
    const Arena::Scope scope(arena_);
    if (again_) kept(T_, c_.hidden_size);
    {
      const Arena::Scope in_attention(arena_);
      if (paper_) expanded();
      if (fp8_) kept(T_, c_.num_attention_heads * c_.v_head_dim);
      Arena none{Arena::Counting{}};
      const Attention a = attention(none);
      ops::attention(a.o, a.lse, a.q, a.kv, a.k_rope, shape(), arena_);
    }
    if (again_) kept(T_, c_.hidden_size);
    if (c_.first_k_dense_replace > 0) ffn_forward(c_.intermediate_size);
    if (c_.first_k_dense_replace < c_.layers()) moe_forward();
  }
  void ffn_forward(int64_t width) {
    const Arena::Scope scope(arena_);
    if (fp8_) kept(T_, 2 * width);
    if (again_) kept(T_, width);
  }
  void moe_forward() {
    const Arena::Scope scope(arena_);
    const int64_t D = c_.hidden_size, F = c_.moe_intermediate_size;
    if (fp8_) kept(routed(), 2 * F);
    if (fp8_) {
      dispatched(D);
    } else {
      kept(routed(), D);
    }
    if (again_) kept(routed(), F);
    if (c_.n_shared_experts > 0) ffn_forward(c_.n_shared_experts * F);
  }
  void head() {
    const Arena::Scope scope(arena_);
    const int64_t rows = std::min(T_, ops::cross_entropy_block(c_.vocab_size));
    f32(rows, c_.vocab_size);
    if (act_ != DType::kF32) kept(rows, c_.vocab_size);
    plain_wgrad({rows}, c_.vocab_size, c_.hidden_size, act_);
  }

  struct Attention {
    Tensor q, kv, k_rope, o, lse;
  };
  // Shapes alone: the arena counts.
  Attention attention(Arena& arena) const {
    const int64_t H = c_.num_attention_heads;
    return {arena.make(act_, {T_, H * c_.qk_head_dim()}),
            arena.make(act_, {T_, H * (c_.qk_nope_head_dim + c_.v_head_dim)}),
            arena.make(act_, {T_, c_.qk_rope_head_dim}), arena.make(act_, {T_, H * c_.v_head_dim}),
            arena.make(DType::kF32, {H, T_})};
  }
  ops::AttentionShape shape() const {
    ops::AttentionShape shape;
    shape.batch = B_;
    shape.positions = S_;
    shape.heads = c_.num_attention_heads;
    shape.nope = c_.qk_nope_head_dim;
    shape.rope = c_.qk_rope_head_dim;
    shape.v = c_.v_head_dim;
    return shape;
  }
  void expanded() {
    if (c_.q_lora_rank > 0) kept(T_, c_.q_lora_rank);
    kept(T_, c_.num_attention_heads * c_.qk_head_dim());
    kept(T_, c_.kv_lora_rank);
    kept(T_, c_.num_attention_heads * (c_.qk_nope_head_dim + c_.v_head_dim));
  }
  void mla_backward() {
    const Arena::Scope scope(arena_);
    if (paper_) expanded();
    const int64_t H = c_.num_attention_heads, D = c_.hidden_size, rank = c_.kv_lora_rank;
    const int64_t nope_v = c_.qk_nope_head_dim + c_.v_head_dim, q_width = H * c_.qk_head_dim();
    if (fp8_) kept(T_, H * c_.v_head_dim);
    kept(T_, H * c_.v_head_dim);
    linear_backward(D, H * c_.v_head_dim, DType::kF32);
    const Tensor dq = kept(T_, q_width), dkv = kept(T_, H * nope_v),
                 dk_rope = kept(T_, c_.qk_rope_head_dim);
    Arena none{Arena::Counting{}};
    const Attention a = attention(none);
    ops::attention_backward(dq, dkv, dk_rope, a.o, a.o, a.lse, a.q, a.kv, a.k_rope, shape(),
                            arena_);
    kept(T_, c_.latent_width());
    kept(T_, rank);
    linear_backward(H * nope_v, rank, act_);
    norm(rank);
    linear_backward(c_.latent_width(), D, act_);
    if (c_.q_lora_rank == 0) return linear_backward(q_width, D, act_);
    kept(T_, c_.q_lora_rank);
    kept(T_, c_.q_lora_rank);
    linear_backward(q_width, c_.q_lora_rank, act_);
    norm(c_.q_lora_rank);
    linear_backward(c_.q_lora_rank, D, act_);
  }
  void ffn_backward(int64_t width) {
    const Arena::Scope scope(arena_);
    if (again_) kept(T_, width);
    kept(T_, width);
    kept(T_, 2 * width);
    linear_backward(c_.hidden_size, width, DType::kF32);
    linear_backward(2 * width, c_.hidden_size, act_);
  }
  int64_t routed() const { return T_ * c_.num_experts_per_tok; }
  void moe_backward() {
    const Arena::Scope scope(arena_);
    const int64_t D = c_.hidden_size, F = c_.moe_intermediate_size, E = c_.n_routed_experts;
    // Tokens of each expert: evenly, as the balance will have it.
    std::vector<int64_t> rows(static_cast<size_t>(E), routed() / E);
    for (int64_t e = 0; e < routed() % E; ++e) ++rows[static_cast<size_t>(e)];
    kept(routed(), D);
    if (again_) kept(routed(), F);
    kept(routed(), F);
    {
      const Arena::Scope in_down(arena_);
      dispatched(D);
    }
    kept(routed(), 2 * F);
    f32(routed(), 1);
    wgrad(rows, D, F);
    f32(routed(), 1);
    {
      const Arena::Scope in_router(arena_);
      f32(T_, E);
      plain_wgrad({T_}, E, D, DType::kF32);
    }
    wgrad(rows, 2 * F, D);
    if (c_.n_shared_experts > 0) ffn_backward(c_.n_shared_experts * F);
  }

  const ModelConfig& c_;
  DType act_;
  int64_t B_, S_, T_;
  bool paper_, block_, fp8_, again_;
  ops::Fp8Recipe recipe_;
  Arena arena_{Arena::Counting{}};
};

}  // namespace

StepMemory step_memory(const ModelConfig& config, Precision precision, int64_t sequences,
                       int64_t positions, Recompute recompute, const ops::Fp8Recipe& recipe) {
  StepMemory out;
  Transformer model(config, precision);
  model.for_each_weight([&](Weight& weight) {
    out.weights += static_cast<size_t>(weight.numbers()) * sizeof(float);
  });
  out.gradients = out.weights;
  out.moments = 2 * out.weights;
  out.operands = model.packed_size(true);
  out.activations = activations(config, precision, sequences, positions, recompute);
  out.workspace = Workspace(config, precision, sequences, positions, recompute, recipe).peak();
  return out;
}

}  // namespace minke::model
