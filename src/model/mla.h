// Multi-head latent attention (V3 report, section 2.1.1): keys and values of all heads come from
// one latent vector of a token, which is all that a cache keeps, beside one roped key that the
// heads share.
//
// forward and backward are the expanded form, over whole sequences; decode is the absorbed form,
// where queries go into latent space and attend to the cache itself.
#pragma once

#include <span>

#include "model/linear.h"
#include "model/rope.h"
#include "ops/attention.h"
#include "ops/rope.h"

namespace minke::model {

// The rows of a pass: `batch` sequences of `positions` tokens, one after the other.
struct Layout {
  int64_t batch = 0, positions = 0;
  std::span<const int32_t> position;  // of each row in its sequence
  std::span<const int32_t> first;     // see ops::AttentionShape; empty: nothing is masked
  int64_t tokens() const { return batch * positions; }
};

// A row to decode: a token at `position` of a sequence whose cache holds the positions before it.
struct CacheRow {
  std::byte* cache = nullptr;  // [layers, capacity, latent + rope] of the run's activation type
  int64_t capacity = 0;
  int32_t position = 0;
};

class Mla {
 public:
  Mla(const ModelConfig& config, const std::string& prefix);

  // Queries of all heads, and keys and values, with the latents they come from.
  struct Expanded {
    Tensor q_latent_TQ, q, latent_TR, kv;
  };
  // Attention's output: in FP8 kept in E5M6 (V3 report, section 3.3.3).
  struct Output {
    Tensor numbers, codes, scale;

    // Where attention writes it.
    Output(int64_t rows, int64_t width, const Pass& pass);
    Output() = default;
    // To be called once it is written.
    void keep();
    // As the backward reads it.
    Tensor kept(const Pass& pass) const;
  };
  struct Saved {
    Tensor q_a_TQ, kv_a, k_rope, lse_HT;
    Output o;
    Expanded expanded;
    RmsNorm::Saved q_norm, kv_norm;
  };
  // y_TD += attention of x_TD (the normed input).
  void forward(const Tensor& y_TD, const Tensor& x_TD, const Layout& layout,
               const RopeTables& tables, Saved& saved, const Pass& pass) const;
  // dx_TD (FP32) is overwritten.
  void backward(const Tensor& dx_TD, const Tensor& dy_TD, const Tensor& x_TD, const Layout& layout,
                const RopeTables& tables, const Saved& saved, const Pass& pass);

  // Row i is rows[i]'s token; its latent is written into the cache of `layer` before anything is
  // read. Rows of one sequence may follow each other (a prompt in chunks). y_AD are the last rows,
  // as many as anyone asks for: those before only leave their latents.
  void decode(const Tensor& y_AD, const Tensor& x_MD, std::span<const CacheRow> rows, int64_t layer,
              const RopeTables& tables, const Pass& pass) const;

  template <typename Visit>
  void for_each_weight(Visit&& visit) {
    if (q_.exists()) {
      visit(q_);
    } else {
      visit(q_a_);
      visit(q_norm_.weight);
      visit(q_b_);
    }
    visit(kv_a_);
    visit(kv_norm_.weight);
    visit(kv_b_);
    visit(o_);
  }
  // The two halves of kv_b as decode reads them, W_UK of each head transposed, and W_UV: where they
  // are to lie instead of in memory of its own, and what has to be packed.
  void place_absorbed(Precision precision, std::byte* memory);
  void add_absorbed_pack_jobs(Precision precision, PackJobs& jobs);
  size_t absorbed_size(Precision precision) const;

 private:
  bool absorbs_codes() const;
  DType absorbed_format(Precision precision) const;
  ops::AttentionShape attention_shape(const Layout& layout) const;
  ops::Rope rope(const RopeTables& tables, std::span<const int32_t> positions, bool inverse) const;
  Expanded make_expanded(Arena& arena, DType dtype, int64_t tokens) const;
  // From the latents on.
  void expand(const Expanded& to, const Tensor& x_TD, const Layout& layout,
              const RopeTables& tables, const Pass& pass) const;
  ops::Rope q_rope(const RopeTables& tables, const Layout& layout, bool inverse) const;

  int64_t heads_, nope_, rope_dim_, v_, rank_, q_rank_;
  float scale_;
  Weight q_, q_a_, q_b_, kv_a_, kv_b_, o_;
  RmsNorm q_norm_, kv_norm_;
  OwnedTensor absorbed_memory_;
  std::vector<ops::Packed> absorbed_k_, absorbed_v_;  // one a head
};

}  // namespace minke::model
