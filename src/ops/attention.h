// Attention of MLA (DeepSeek-V2 report, section 2.1; V3 report, equations 1-11).
//
// Expanded, for training: causal attention with keys of nope + rope and values of v numbers a head,
// the roped key shared by all heads. Blocked with online softmax; nothing of [S, S] is ever held.
// Absorbed, for decoding: queries already multiplied by W_UK attend to the latent cache itself.
#pragma once

#include <span>

#include "ops/matrix.h"

namespace minke::ops {

struct AttentionShape {
  int64_t batch = 0;      // B sequences of
  int64_t positions = 0;  // S positions; T = B * S
  int64_t heads = 0;
  int64_t nope = 0, rope = 0, v = 0;
  float scale = 1;  // of the scores, before softmax
  // Token t (of T) sees the positions [first[t], its own] of its sequence; empty: from 0. Never
  // decreases within a sequence (documents that are masked from each other).
  std::span<const int32_t> first;
};

// q [T, H * (nope + rope)]: per head nope, then the roped part. kv [T, H * (nope + v)]: per head
// the nope key, then the value. k_rope [T, rope]. o [T, H * v]. All of one dtype, FP32 or BF16
// (sums and softmax are FP32; probabilities are rounded to BF16 before they meet BF16 values).
// lse_HT FP32: log of the sum of e^score.
void attention(const Tensor& o, const Tensor& lse_HT, const Tensor& q, const Tensor& kv,
               const Tensor& k_rope, const AttentionShape& shape, Arena& scratch);

// dq, dkv, dk_rope have the shapes and dtype of q, kv, k_rope and are overwritten; dk_rope is
// summed over heads in FP32, in order. d_o [T, H * v].
void attention_backward(const Tensor& dq, const Tensor& dkv, const Tensor& dk_rope,
                        const Tensor& d_o, const Tensor& o, const Tensor& lse_HT, const Tensor& q,
                        const Tensor& kv, const Tensor& k_rope, const AttentionShape& shape,
                        Arena& scratch);

// One query row of absorbed attention: what it sees of its sequence's latent cache.
struct LatentRow {
  const void* cache = nullptr;  // [length, R + rope], the dtype of q: normed latent, then roped key
  int64_t length = 0;           // >= 1; the row's own token is the last
};
// q [M, H * (R + rope)]: per head the query in latent space, then its roped part. o [M, H * R] of
// q's dtype. A row's result depends on that row alone, whatever the others are.
void latent_attention(const Tensor& o, const Tensor& q, std::span<const LatentRow> rows,
                      int64_t heads, int64_t rank, int64_t rope, float scale, Arena& scratch);

}  // namespace minke::ops
