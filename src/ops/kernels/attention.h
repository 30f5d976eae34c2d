// Kernels of attention. All are blocks of products (ops/kernels/matmul.h) with a softmax between
// them; what is read as a right operand is packed in panels first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

// A block of scores stays in a core's first cache with what makes it. Whole panels.
inline constexpr int64_t kForwardQueries = 64, kForwardKeys = 256;
inline constexpr int64_t kBackwardQueries = 64, kBackwardKeys = 128;

// One head of one sequence: matrices of S rows that hold its columns alone.
struct AttentionHead {
  Matrix q, k_nope, k_rope, value, o;
  float scale;
  const int32_t* first;  // null: every key up to its own
  float* lse;            // [S]
  // Backward.
  Matrix d_o, dq, dk_nope, dvalue;
  float* dk_rope;  // [S, rope]
};

// Keys and values of a head in panels, for forward.
struct PackedHead {
  std::byte* k_by_width;  // columns are keys, the sum goes along a key's numbers
  std::byte* v_by_key;    // columns are a value's numbers, the sum goes along keys
};

// Memory that a task uses, of the head's format (void*) or FP32.
struct PackBuffers {
  void* rows;  // [kPanel, nope + rope]
};
struct ForwardBuffers {
  void* q;        // [kForwardQueries, nope + rope]
  float* scores;  // [kForwardQueries, kForwardKeys]
  void* p;        // the same
  float* o;       // [kForwardQueries, v]
};
struct BackwardBuffers {
  void *q, *k, *d_o;  // the head's rows, one after the other
  // Panels, as in PackedHead; by_width: along a row's numbers, by_row: along rows.
  std::byte *k_by_width, *v_by_width, *k_by_row, *q_by_row, *d_o_by_row;
  float* delta;                        // [S]: sum of d_o * o
  float* dq;                           // [S, nope + rope]
  float *dk, *dv;                      // [kBackwardKeys, nope + rope], [kBackwardKeys, v]
  float *scores, *dscores;             // [kBackwardQueries, kBackwardKeys]
  void *p_pairs, *ds_pairs, *ds_rows;  // the same; pairs (BF16): of two queries
};

struct AttentionKernels {
  // By the format.
  void (*pack[2])(const PackedHead& to, const AttentionHead& head, const PackBuffers& buffers);
  // Queries [begin, end), at most kForwardQueries.
  void (*forward[2])(const AttentionHead& head, const PackedHead& packed,
                     const ForwardBuffers& buffers, int64_t begin, int64_t end);
};
MINKE_DECLARE_KERNELS(AttentionKernels, attention_kernels)

struct AttentionBackwardKernels {
  void (*backward[2])(const AttentionHead& head, const BackwardBuffers& buffers);
  // dk_rope rows [begin, end) = the sum of parts [heads, sequence, S, rope], in order of heads.
  void (*sum_heads[2])(void* dk_rope, const float* parts, int64_t heads, int64_t head_stride,
                       int64_t begin, int64_t end);
};
MINKE_DECLARE_KERNELS(AttentionBackwardKernels, attention_backward_kernels)

// Absorbed attention of some rows that read one cache, over its tokens [begin, end).
struct LatentRows {
  const void* cache;  // [length, rank + rope]
  int64_t begin, end;
  int64_t heads, rank, rope;
  float scale;
};
// A row's part of the result. A row that is shorter than `begin` has none.
struct LatentPart {
  const void* q;     // [heads, rank + rope]
  int64_t length;    // of the row
  float *top, *sum;  // [heads]: the largest score, the sum of e^(score - top)
  float* o;          // [heads, rank]: the sum of e^(score - top) times the latent
};
inline constexpr int64_t kLatentKeys = 128;  // packed at once
struct LatentBuffers {
  std::byte* by_width;  // [kLatentKeys] columns in panels, along rank + rope
  std::byte* by_key;    // [rank] columns in panels, along kLatentKeys
  float* scores;        // [heads, kLatentKeys]
  void* p;              // the same
};

struct LatentKernels {
  void (*part[2])(const LatentRows& rows, const LatentPart* parts, int64_t count,
                  const LatentBuffers& buffers);
  // One head's result from its parts, `stride` heads apart, in order. Overwrites the first's o.
  void (*combine[2])(void* o, const LatentPart& first, int64_t head, int64_t heads, int64_t rank,
                     int64_t parts);
};
MINKE_DECLARE_KERNELS(LatentKernels, latent_kernels)

}  // namespace minke::ops::kernels
