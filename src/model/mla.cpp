#include "model/mla.h"

#include "ops/elementwise.h"
#include "tensor/scales.h"

namespace minke::model {

Mla::Output::Output(int64_t rows, int64_t width, const Pass& pass)
    : numbers((pass.is_fp8() ? pass.scratch : pass.saved).make(pass.activation(), {rows, width})) {
  if (!pass.is_fp8()) return;
  codes = pass.saved.make(DType::kU8, {rows, ops::e5m6_bytes(width)});
  scale = pass.saved.make(DType::kF32, {rows, ops::quantized_blocks(width, 0)});
}

void Mla::Output::keep() {
  if (!codes.empty()) ops::quantize_e5m6(numbers, codes, scale);
}

Tensor Mla::Output::kept(const Pass& pass) const {
  if (codes.empty()) return numbers;
  const Tensor out = pass.scratch.make(pass.activation(), numbers.shape());
  ops::dequantize_e5m6(out, codes, scale);
  return out;
}

Mla::Mla(const ModelConfig& c, const std::string& prefix)
    : heads_(c.num_attention_heads),
      nope_(c.qk_nope_head_dim),
      rope_dim_(c.qk_rope_head_dim),
      v_(c.v_head_dim),
      rank_(c.kv_lora_rank),
      q_rank_(c.q_lora_rank),
      scale_(static_cast<float>(softmax_scale(c))) {
  using Kind = Weight::Kind;
  const int64_t d = c.hidden_size, q_width = heads_ * (nope_ + rope_dim_);
  const auto linear_weight = [&](const char* name, int64_t rows, int64_t cols) {
    return Weight::matrix(Kind::kLinear, prefix + name + ".weight", rows, cols);
  };
  if (q_rank_ > 0) {
    q_a_ = linear_weight("q_a_proj", q_rank_, d);
    q_norm_ = {Weight::vector(prefix + "q_a_layernorm.weight", q_rank_),
               static_cast<float>(kLatentNormEps)};
    q_b_ = linear_weight("q_b_proj", q_width, q_rank_);
  } else {
    q_ = linear_weight("q_proj", q_width, d);
  }
  kv_a_ = linear_weight("kv_a_proj_with_mqa", rank_ + rope_dim_, d);
  kv_norm_ = {Weight::vector(prefix + "kv_a_layernorm.weight", rank_),
              static_cast<float>(kLatentNormEps)};
  kv_b_ = linear_weight("kv_b_proj", heads_ * (nope_ + v_), rank_);
  o_ = linear_weight("o_proj", d, heads_ * v_);
}

ops::AttentionShape Mla::attention_shape(const Layout& layout) const {
  return {layout.batch, layout.positions, heads_, nope_, rope_dim_, v_, scale_, layout.first};
}

ops::Rope Mla::rope(const RopeTables& tables, std::span<const int32_t> positions,
                    bool inverse) const {
  return {1, rope_dim_, 0, tables.cos(), tables.sin(), positions, inverse};
}

ops::Rope Mla::q_rope(const RopeTables& tables, const Layout& layout, bool inverse) const {
  ops::Rope how = rope(tables, layout.position, inverse);
  how.heads = heads_;
  how.width = nope_ + rope_dim_;
  how.offset = nope_;
  return how;
}

Mla::Expanded Mla::make_expanded(Arena& arena, DType dtype, int64_t tokens) const {
  Expanded out;
  if (!q_.exists()) out.q_latent_TQ = arena.make(dtype, {tokens, q_rank_});
  out.q = arena.make(dtype, {tokens, heads_ * (nope_ + rope_dim_)});
  out.latent_TR = arena.make(dtype, {tokens, rank_});
  out.kv = arena.make(dtype, {tokens, heads_ * (nope_ + v_)});
  return out;
}

void Mla::expand(const Expanded& to, const Tensor& x_TD, const Layout& layout,
                 const RopeTables& tables, const Pass& pass) const {
  if (q_.exists()) {
    linear(to.q, x_TD, q_, false, pass);
  } else {
    linear(to.q, to.q_latent_TQ, q_b_, false, pass);
  }
  ops::rope(to.q, to.q, q_rope(tables, layout, false));
  linear(to.kv, to.latent_TR, kv_b_, false, pass);
}

void Mla::forward(const Tensor& y_TD, const Tensor& x_TD, const Layout& layout,
                  const RopeTables& tables, Saved& s, const Pass& pass) const {
  const Arena::Scope scope(pass.scratch);
  const int64_t T = layout.tokens();
  const DType act = pass.activation();
  s.expanded = make_expanded(pass.cheap(), act, T);
  if (!q_.exists()) {
    s.q_a_TQ = pass.saved.make(act, {T, q_rank_});
    linear(s.q_a_TQ, x_TD, q_a_, false, pass);
    q_norm_.forward(s.expanded.q_latent_TQ, s.q_a_TQ, s.q_norm, pass);
  }
  s.kv_a = pass.saved.make(act, {T, rank_ + rope_dim_});
  linear(s.kv_a, x_TD, kv_a_, false, pass);
  const ops::Matrix kv_a(s.kv_a);
  kv_norm_.forward(s.expanded.latent_TR, kv_a.columns(0, rank_), s.kv_norm, pass);
  s.k_rope = pass.saved.make(act, {T, rope_dim_});
  ops::rope(s.k_rope, kv_a.columns(rank_, rope_dim_), rope(tables, layout.position, false));
  expand(s.expanded, x_TD, layout, tables, pass);

  s.o = Output(T, heads_ * v_, pass);
  s.lse_HT = pass.saved.make(DType::kF32, {heads_, T});
  ops::attention(s.o.numbers, s.lse_HT, s.expanded.q, s.expanded.kv, s.k_rope,
                 attention_shape(layout), pass.scratch);
  s.o.keep();
  linear(y_TD, s.o.numbers, o_, true, pass);
}

void Mla::backward(const Tensor& dx_TD, const Tensor& dy_TD, const Tensor& x_TD,
                   const Layout& layout, const RopeTables& tables, const Saved& s,
                   const Pass& pass) {
  const Arena::Scope scope(pass.scratch);
  const DType act = pass.activation();
  const int64_t T = layout.tokens();
  const auto scratch = [&](int64_t width) { return pass.scratch.make(act, {T, width}); };
  const ops::Matrix latent_a = ops::Matrix(s.kv_a).columns(0, rank_);

  Expanded e = s.expanded;
  if (pass.recompute == Recompute::kPaper) {
    e = make_expanded(pass.scratch, act, T);
    if (!q_.exists()) q_norm_.forward(e.q_latent_TQ, s.q_a_TQ);
    kv_norm_.forward(e.latent_TR, latent_a);
    expand(e, x_TD, layout, tables, pass);
  }

  const Tensor o = s.o.kept(pass), d_o = scratch(heads_ * v_);
  linear_backward(d_o, false, dy_TD, o, o_, pass);
  const Tensor dq = scratch(e.q.dim(1)), dkv = scratch(e.kv.dim(1)), dk_rope = scratch(rope_dim_);
  ops::attention_backward(dq, dkv, dk_rope, d_o, o, s.lse_HT, e.q, e.kv, s.k_rope,
                          attention_shape(layout), pass.scratch);

  const Tensor dkv_a = scratch(rank_ + rope_dim_), dlatent = scratch(rank_);
  linear_backward(dlatent, false, dkv, e.latent_TR, kv_b_, pass);
  kv_norm_.backward(ops::Matrix(dkv_a).columns(0, rank_), false, dlatent, latent_a, s.kv_norm,
                    pass);
  ops::rope(ops::Matrix(dkv_a).columns(rank_, rope_dim_), dk_rope,
            rope(tables, layout.position, true));
  linear_backward(dx_TD, false, dkv_a, x_TD, kv_a_, pass);

  ops::rope(dq, dq, q_rope(tables, layout, true));
  if (q_.exists()) {
    linear_backward(dx_TD, true, dq, x_TD, q_, pass);
    return;
  }
  const Tensor dq_latent = scratch(q_rank_), dq_a = scratch(q_rank_);
  linear_backward(dq_latent, false, dq, e.q_latent_TQ, q_b_, pass);
  q_norm_.backward(dq_a, false, dq_latent, s.q_a_TQ, s.q_norm, pass);
  linear_backward(dx_TD, true, dq_a, x_TD, q_a_, pass);
}

void Mla::decode(const Tensor& y_AD, const Tensor& x_MD, std::span<const CacheRow> rows,
                 int64_t layer, const RopeTables& tables, const Pass& pass) const {
  MINKE_CHECK(!absorbed_k_.empty(), "decode before prepare");
  const Arena::Scope scope(pass.scratch);
  const DType act = pass.activation();
  const auto M = static_cast<int64_t>(rows.size());
  const int64_t A = y_AD.dim(0), first = M - A;
  const int64_t qk = nope_ + rope_dim_, width = rank_ + rope_dim_;
  const auto number = static_cast<int64_t>(size_of(act));
  std::vector<int32_t> positions;
  for (const CacheRow& row : rows) {
    MINKE_CHECK(row.position >= 0 && row.position < row.capacity, "position {} of a cache of {}",
                row.position, row.capacity);
    positions.push_back(row.position);
  }

  const Tensor x_AD = x_MD.rows(first, A);
  const Tensor kv_a = pass.scratch.make(act, {M, width});
  const Tensor q = pass.scratch.make(act, {A, heads_ * qk});
  const Tensor q_a = q_.exists() ? q : pass.scratch.make(act, {A, q_rank_});
  linear({{kv_a, x_MD, kv_a_}, {q_a, x_AD, q_.exists() ? q_ : q_a_}}, pass);
  const Tensor entry = pass.scratch.make(act, {M, width});
  kv_norm_.forward(ops::Matrix(entry).columns(0, rank_), ops::Matrix(kv_a).columns(0, rank_));
  ops::rope(ops::Matrix(entry).columns(rank_, rope_dim_),
            ops::Matrix(kv_a).columns(rank_, rope_dim_), rope(tables, positions, false));
  std::vector<ops::LatentRow> latent_rows;
  for (int64_t m = 0; m < M; ++m) {
    const CacheRow& row = rows[static_cast<size_t>(m)];
    std::byte* cache = row.cache + layer * row.capacity * width * number;
    ops::convert(ops::Matrix(cache + row.position * width * number, act, 1, width, width),
                 ops::Matrix(entry).row_range(m, 1));
    if (m >= first) latent_rows.push_back({cache, row.position + int64_t{1}});
  }

  const std::span<const int32_t> asking = std::span(positions).subspan(static_cast<size_t>(first));
  if (!q_.exists()) {
    const Tensor latent = pass.scratch.make(act, {A, q_rank_});
    q_norm_.forward(latent, q_a);
    linear(q, latent, q_b_, false, pass);
  }
  // Queries in latent space, each head's beside its roped part.
  const Tensor absorbed = pass.scratch.make(act, {A, heads_ * width});
  std::vector<ops::Product> products;
  for (int64_t h = 0; h < heads_; ++h) {
    products.push_back({ops::Matrix(absorbed).columns(h * width, rank_),
                        ops::Matrix(q).columns(h * qk, nope_), absorbed_k_[static_cast<size_t>(h)],
                        false});
    ops::rope(ops::Matrix(absorbed).columns(h * width + rank_, rope_dim_),
              ops::Matrix(q).columns(h * qk + nope_, rope_dim_), rope(tables, asking, false));
  }
  ops::matmul(products);
  const Tensor o_latent = pass.scratch.make(act, {A, heads_ * rank_});
  ops::latent_attention(o_latent, absorbed, latent_rows, heads_, rank_, rope_dim_, scale_,
                        pass.scratch);
  const Tensor o = pass.scratch.make(act, {A, heads_ * v_});
  products.clear();
  for (int64_t h = 0; h < heads_; ++h) {
    products.push_back({ops::Matrix(o).columns(h * v_, v_),
                        ops::Matrix(o_latent).columns(h * rank_, rank_),
                        absorbed_v_[static_cast<size_t>(h)], false});
  }
  ops::matmul(products);
  linear(y_AD, o, o_, true, pass);
}

// Where heads begin with blocks, their codes are operands with the file's own scales; else kv_b, a
// small part of a model, is widened.
bool Mla::absorbs_codes() const {
  return kv_b_.codes() && nope_ % ops::kScaleBlock == 0 && v_ % ops::kScaleBlock == 0;
}

DType Mla::absorbed_format(Precision precision) const {
  return absorbs_codes() ? DType::kE4M3 : dtype_of_precision(precision);
}

size_t Mla::absorbed_size(Precision precision) const {
  const DType format = absorbed_format(precision);
  return static_cast<size_t>(heads_) * (aligned(ops::packed_bytes(format, rank_, nope_)) +
                                        aligned(ops::packed_bytes(format, v_, rank_)));
}

void Mla::place_absorbed(Precision precision, std::byte* memory) {
  const DType format = absorbed_format(precision);
  absorbed_k_.clear();
  absorbed_v_.clear();
  // One product reads all heads' keys, and another their values: each is a run of memory.
  const size_t k_bytes = aligned(ops::packed_bytes(format, rank_, nope_)),
               v_bytes = aligned(ops::packed_bytes(format, v_, rank_));
  std::byte* values = memory + static_cast<size_t>(heads_) * k_bytes;
  for (int64_t h = 0; h < heads_; ++h, memory += k_bytes, values += v_bytes) {
    absorbed_k_.push_back({memory, format, rank_, nope_});
    absorbed_v_.push_back({values, format, v_, rank_});
    if (!absorbs_codes()) continue;
    const int64_t blocks = (rank_ + ops::kScaleBlock - 1) / ops::kScaleBlock;
    const float* scale = kv_b_.pieces()[0].scale.data<float>();
    const int64_t first = h * (nope_ + v_) / ops::kScaleBlock;
    absorbed_k_.back().scales = {scale + first * blocks, ops::kScaleBlock, 1, blocks};
    absorbed_v_.back().scales = {scale + (first + nope_ / ops::kScaleBlock) * blocks,
                                 ops::kScaleBlock, blocks, 1};
  }
}

void Mla::add_absorbed_pack_jobs(Precision precision, PackJobs& jobs) {
  if (absorbed_k_.empty()) {
    absorbed_memory_ = OwnedTensor(DType::kU8, {static_cast<int64_t>(absorbed_size(precision))});
    place_absorbed(precision, reinterpret_cast<std::byte*>(absorbed_memory_.data<uint8_t>()));
  }
  const Piece& piece = kv_b_.pieces()[0];
  Tensor value = piece.value;
  if (kv_b_.codes() && !absorbs_codes()) {
    jobs.assembled.emplace_back(DType::kF32, piece.shape);
    dequantize_e4m3(jobs.assembled.back(), piece.value, piece.scale, kBlock128x128);
    value = jobs.assembled.back();
  }
  for (int64_t h = 0; h < heads_; ++h) {
    jobs.by_columns.push_back(
        {absorbed_k_[static_cast<size_t>(h)], value.rows(h * (nope_ + v_), nope_)});
    jobs.by_rows.push_back(
        {absorbed_v_[static_cast<size_t>(h)], value.rows(h * (nope_ + v_) + nope_, v_)});
  }
}

}  // namespace minke::model
