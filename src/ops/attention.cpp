#include "ops/attention.h"

#include <vector>

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/chunks.h"
#include "ops/dispatch.h"
#include "ops/kernels/attention.h"
#include "ops/kernels/matmul.h"
#include "ops/matmul.h"

namespace minke::ops {
namespace {

using kernels::AttentionHead;

// What all calls of an attention share: sizes, and where a head's part of a tensor lies.
struct Heads {
  const AttentionShape& shape;
  DType dtype;

  int64_t width() const { return shape.nope + shape.rope; }
  int64_t tokens() const { return shape.batch * shape.positions; }
  int64_t count() const { return shape.batch * shape.heads; }

  // Task i is head i % heads of sequence i / heads.
  Matrix part(const Tensor& x, int64_t i, int64_t head_width, int64_t column, int64_t cols) const {
    const int64_t h = i % shape.heads, sequence = i / shape.heads;
    return Matrix(x)
        .row_range(sequence * shape.positions, shape.positions)
        .columns(h * head_width + column, cols);
  }
  AttentionHead head(int64_t i, const Tensor& o, const Tensor& lse, const Tensor& q,
                     const Tensor& kv, const Tensor& k_rope) const {
    const int64_t sequence = i / shape.heads, row = sequence * shape.positions;
    AttentionHead head{};
    head.q = part(q, i, width(), 0, width());
    head.k_nope = part(kv, i, shape.nope + shape.v, 0, shape.nope);
    head.value = part(kv, i, shape.nope + shape.v, shape.nope, shape.v);
    head.k_rope = Matrix(k_rope).row_range(row, shape.positions);
    head.o = part(o, i, shape.v, 0, shape.v);
    head.scale = shape.scale;
    head.first = shape.first.empty() ? nullptr : shape.first.data() + row;
    head.lse = lse.data<float>() + i % shape.heads * tokens() + row;
    return head;
  }
};

void check_first(const AttentionShape& shape) {
  if (shape.first.empty()) return;
  MINKE_CHECK(std::ssize(shape.first) == shape.batch * shape.positions);
  for (int64_t t = 0; t < std::ssize(shape.first); ++t) {
    const int64_t position = t % shape.positions;
    const int32_t here = shape.first[static_cast<size_t>(t)];
    const int32_t before = position == 0 ? 0 : shape.first[static_cast<size_t>(t - 1)];
    MINKE_CHECK(here >= before && here <= position, "first {} after {} at position {}", here,
                before, position);
  }
}

void check(const Heads& heads, const Tensor& o, const Tensor& lse_HT, const Tensor& q,
           const Tensor& kv, const Tensor& k_rope) {
  const AttentionShape& s = heads.shape;
  const int64_t T = heads.tokens();
  MINKE_CHECK(s.batch >= 1 && s.positions >= 1 && s.heads >= 1 && s.nope >= 0 && s.rope >= 0);
  MINKE_CHECK(heads.width() >= 1 && s.v >= 1 && s.scale > 0);
  MINKE_CHECK(q.shape() == Shape({T, s.heads * heads.width()}), "{}", to_string(q.shape()));
  MINKE_CHECK(kv.shape() == Shape({T, s.heads * (s.nope + s.v)}), "{}", to_string(kv.shape()));
  MINKE_CHECK(k_rope.shape() == Shape({T, s.rope}), "{}", to_string(k_rope.shape()));
  MINKE_CHECK(o.shape() == Shape({T, s.heads * s.v}), "{}", to_string(o.shape()));
  MINKE_CHECK(lse_HT.shape() == Shape({s.heads, T}), "{}", to_string(lse_HT.shape()));
  MINKE_CHECK(kv.dtype() == q.dtype() && k_rope.dtype() == q.dtype() && o.dtype() == q.dtype());
  check_first(s);
}

// Memory of several users (heads or threads), the same for each.
class Shares {
 public:
  Shares(Arena& scratch, int64_t users) : scratch_(scratch), users_(users) {}
  struct Share {
    std::byte* data;
    int64_t stride;
    std::byte* of(int64_t user) const { return data + user * stride; }
  };
  Share bytes(int64_t n) {
    const int64_t stride = ceil_div(n, 64) * 64;
    return {static_cast<std::byte*>(scratch_.make(DType::kU8, {users_, stride}).raw()), stride};
  }
  Share numbers(DType dtype, int64_t rows, int64_t cols) {
    return bytes(rows * cols * static_cast<int64_t>(size_of(dtype)));
  }
  // Panels of `columns` whose sums are k long.
  Share panels(DType dtype, int64_t columns, int64_t k) {
    return bytes(static_cast<int64_t>(packed_bytes(dtype, columns, k)));
  }

 private:
  Arena& scratch_;
  int64_t users_;
};

float* floats(std::byte* p) { return reinterpret_cast<float*>(p); }

}  // namespace

void attention(const Tensor& o, const Tensor& lse_HT, const Tensor& q, const Tensor& kv,
               const Tensor& k_rope, const AttentionShape& shape, Arena& scratch) {
  const Profiled profiled("attention");
  using kernels::kForwardKeys, kernels::kForwardQueries;
  const Heads heads{shape, q.dtype()};
  check(heads, o, lse_HT, q, kv, k_rope);
  const int64_t S = shape.positions, width = heads.width(), v = shape.v;
  const int format = format_index(q.dtype());

  const Arena::Scope scope(scratch);
  Shares by_head(scratch, heads.count()), by_thread(scratch, thread_count());
  const auto packed_k = by_head.panels(q.dtype(), S, width);
  const auto packed_v = by_head.panels(q.dtype(), v, S);
  const auto k_rows = by_thread.numbers(q.dtype(), kernels::kPanel, width);
  const auto q_rows = by_thread.numbers(q.dtype(), kForwardQueries, width);
  const auto scores = by_thread.numbers(DType::kF32, kForwardQueries, kForwardKeys);
  const auto p = by_thread.numbers(q.dtype(), kForwardQueries, kForwardKeys);
  const auto sums = by_thread.numbers(DType::kF32, kForwardQueries, v);
  if (scratch.counting()) return;

  const auto table = MINKE_KERNELS(kernels::AttentionKernels, attention_kernels);
  const auto packed = [&](int64_t i) {
    return kernels::PackedHead{packed_k.of(i), packed_v.of(i)};
  };
  parallel_for(heads.count(), 1, [&](int64_t begin, int64_t end) {
    const kernels::PackBuffers buffers{k_rows.of(thread_index())};
    for (int64_t i = begin; i < end; ++i) {
      table->pack[format](packed(i), heads.head(i, o, lse_HT, q, kv, k_rope), buffers);
    }
  });
  const int64_t blocks = ceil_div(S, kForwardQueries);
  parallel_for(heads.count() * blocks, 1, [&](int64_t begin, int64_t end) {
    const int user = thread_index();
    const kernels::ForwardBuffers buffers{q_rows.of(user), floats(scores.of(user)), p.of(user),
                                          floats(sums.of(user))};
    for (int64_t task = begin; task < end; ++task) {
      // The last queries of a head see the most keys: they go first, so that threads end together.
      const int64_t i = task / blocks, query = (blocks - 1 - task % blocks) * kForwardQueries;
      table->forward[format](heads.head(i, o, lse_HT, q, kv, k_rope), packed(i), buffers, query,
                             std::min(query + kForwardQueries, S));
    }
  });
}

void attention_backward(const Tensor& dq, const Tensor& dkv, const Tensor& dk_rope,
                        const Tensor& d_o, const Tensor& o, const Tensor& lse_HT, const Tensor& q,
                        const Tensor& kv, const Tensor& k_rope, const AttentionShape& shape,
                        Arena& scratch) {
  const Profiled profiled("attention_backward");
  using kernels::kBackwardKeys, kernels::kBackwardQueries;
  const Heads heads{shape, q.dtype()};
  check(heads, o, lse_HT, q, kv, k_rope);
  check(heads, d_o, lse_HT, dq, dkv, dk_rope);
  MINKE_CHECK(dq.dtype() == q.dtype());
  const int64_t S = shape.positions, width = heads.width(), v = shape.v, T = heads.tokens();
  const DType dtype = q.dtype();
  const int format = format_index(dtype);

  const Arena::Scope scope(scratch);
  const Tensor rope_parts = scratch.make(DType::kF32, {shape.heads, T, shape.rope});
  Shares by_thread(scratch, thread_count());
  const auto q_rows = by_thread.numbers(dtype, S, width),
             k_rows = by_thread.numbers(dtype, S, width), d_o_rows = by_thread.numbers(dtype, S, v);
  const auto k_by_width = by_thread.panels(dtype, S, width),
             v_by_width = by_thread.panels(dtype, S, v),
             k_by_row = by_thread.panels(dtype, width, S),
             q_by_row = by_thread.panels(dtype, width, S),
             d_o_by_row = by_thread.panels(dtype, v, S);
  const auto delta = by_thread.numbers(DType::kF32, S, 1),
             dq_sums = by_thread.numbers(DType::kF32, S, width),
             dk_sums = by_thread.numbers(DType::kF32, kBackwardKeys, width),
             dv_sums = by_thread.numbers(DType::kF32, kBackwardKeys, v);
  const auto scores = by_thread.numbers(DType::kF32, kBackwardQueries, kBackwardKeys),
             dscores = by_thread.numbers(DType::kF32, kBackwardQueries, kBackwardKeys);
  const auto p_pairs = by_thread.numbers(dtype, kBackwardQueries, kBackwardKeys),
             ds_pairs = by_thread.numbers(dtype, kBackwardQueries, kBackwardKeys),
             ds_rows = by_thread.numbers(dtype, kBackwardQueries, kBackwardKeys);
  if (scratch.counting()) return;

  const auto table = MINKE_KERNELS(kernels::AttentionBackwardKernels, attention_backward_kernels);
  parallel_for(heads.count(), 1, [&](int64_t begin, int64_t end) {
    const int user = thread_index();
    const kernels::BackwardBuffers buffers{
        q_rows.of(user),          k_rows.of(user),          d_o_rows.of(user),
        k_by_width.of(user),      v_by_width.of(user),      k_by_row.of(user),
        q_by_row.of(user),        d_o_by_row.of(user),      floats(delta.of(user)),
        floats(dq_sums.of(user)), floats(dk_sums.of(user)), floats(dv_sums.of(user)),
        floats(scores.of(user)),  floats(dscores.of(user)), p_pairs.of(user),
        ds_pairs.of(user),        ds_rows.of(user)};
    for (int64_t i = begin; i < end; ++i) {
      AttentionHead head = heads.head(i, o, lse_HT, q, kv, k_rope);
      const AttentionHead gradient = heads.head(i, d_o, lse_HT, dq, dkv, dk_rope);
      head.d_o = gradient.o;
      head.dq = gradient.q;
      head.dk_nope = gradient.k_nope;
      head.dvalue = gradient.value;
      head.dk_rope =
          rope_parts.data<float>() + (i % shape.heads * T + i / shape.heads * S) * shape.rope;
      table->backward[format](head, buffers);
    }
  });
  const int64_t numbers = T * shape.rope;
  parallel_for(numbers, rows_per_chunk(shape.heads), [&](int64_t begin, int64_t end) {
    table->sum_heads[format](dk_rope.raw(), rope_parts.data<float>(), shape.heads, numbers, begin,
                             end);
  });
}

namespace {

// Rows that follow each other and read one cache: what a task packs serves all of them.
struct LatentGroup {
  int64_t first_row, rows;
  int64_t parts;       // of its longest row
  int64_t first_task;  // of the batch
};
constexpr int64_t kLatentGroup = 16;
// A row is cut into parts of so many tokens, whatever the other rows are.
constexpr int64_t kLatentTokens = 128;

int64_t latent_parts(int64_t length) { return ceil_div(length, kLatentTokens); }

std::vector<LatentGroup> group_rows(std::span<const LatentRow> rows) {
  std::vector<LatentGroup> groups;
  for (int64_t r = 0; r < std::ssize(rows); ++r) {
    const LatentRow& row = rows[static_cast<size_t>(r)];
    const int64_t parts = latent_parts(row.length);
    if (!groups.empty() && groups.back().rows < kLatentGroup &&
        rows[static_cast<size_t>(groups.back().first_row)].cache == row.cache) {
      ++groups.back().rows;
      groups.back().parts = std::max(groups.back().parts, parts);
    } else {
      groups.push_back({r, 1, parts, 0});
    }
  }
  return groups;
}

// So many rows go at once that the memory of their parts stays bounded; at least one group.
std::span<LatentGroup> take_batch(std::span<LatentGroup>& groups, int64_t numbers_a_part) {
  constexpr int64_t kNumbers = int64_t{1} << 23;
  int64_t numbers = 0, tasks = 0;
  size_t n = 0;
  for (; n < groups.size(); ++n) {
    numbers += groups[n].rows * groups[n].parts * numbers_a_part;
    if (n > 0 && numbers > kNumbers) break;
    groups[n].first_task = tasks;
    tasks += groups[n].parts;
  }
  const auto batch = groups.first(n);
  groups = groups.subspan(n);
  return batch;
}

}  // namespace

void latent_attention(const Tensor& o, const Tensor& q, std::span<const LatentRow> rows,
                      int64_t heads, int64_t rank, int64_t rope, float scale, Arena& scratch) {
  const Profiled profiled("latent_attention");
  using kernels::kLatentKeys;
  const int64_t M = std::ssize(rows), width = rank + rope;
  const DType dtype = q.dtype();
  const int format = format_index(dtype);
  MINKE_CHECK(heads >= 1 && rank >= 1 && rope >= 0 && scale > 0);
  MINKE_CHECK(q.shape() == Shape({M, heads * width}) && o.shape() == Shape({M, heads * rank}));
  MINKE_CHECK(o.dtype() == dtype);
  for (const LatentRow& row : rows) MINKE_CHECK(row.cache != nullptr && row.length >= 1);

  const Arena::Scope scope(scratch);
  Shares by_thread(scratch, thread_count());
  const auto by_width = by_thread.panels(dtype, kLatentKeys, width);
  const auto by_key = by_thread.panels(dtype, rank, kLatentKeys);
  const auto scores = by_thread.numbers(DType::kF32, heads, kLatentKeys);
  const auto p = by_thread.numbers(dtype, heads, kLatentKeys);
  const auto table = MINKE_KERNELS(kernels::LatentKernels, latent_kernels);

  std::vector<LatentGroup> all = group_rows(rows);
  std::span<LatentGroup> left = all;
  while (!left.empty()) {
    const auto batch = take_batch(left, heads * (rank + 2));
    const Arena::Scope batch_scope(scratch);
    std::vector<kernels::LatentPart> parts;  // of each row, the first
    for (const LatentGroup& group : batch) {
      for (int64_t r = group.first_row; r < group.first_row + group.rows; ++r) {
        const auto make = [&](int64_t numbers) {
          return scratch.make(DType::kF32, {group.parts, heads * numbers}).data<float>();
        };
        parts.push_back({Matrix(q).row_range(r, 1).data, rows[static_cast<size_t>(r)].length,
                         make(1), make(1), make(rank)});
      }
    }
    if (scratch.counting()) continue;
    const int64_t first_row = batch.front().first_row;
    parallel_for(batch.back().first_task + batch.back().parts, 1, [&](int64_t begin, int64_t end) {
      const int user = thread_index();
      const kernels::LatentBuffers buffers{by_width.of(user), by_key.of(user),
                                           floats(scores.of(user)), p.of(user)};
      for (int64_t task = begin; task < end; ++task) {
        const LatentGroup& group =
            *(std::ranges::upper_bound(batch, task, {}, &LatentGroup::first_task) - 1);
        const int64_t part = task - group.first_task;
        kernels::LatentPart here[kLatentGroup];
        for (int64_t r = 0; r < group.rows; ++r) {
          here[r] = parts[static_cast<size_t>(group.first_row - first_row + r)];
          here[r].top += part * heads;
          here[r].sum += part * heads;
          here[r].o += part * heads * rank;
        }
        const kernels::LatentRows latent{rows[static_cast<size_t>(group.first_row)].cache,
                                         part * kLatentTokens,
                                         (part + 1) * kLatentTokens,
                                         heads,
                                         rank,
                                         rope,
                                         scale};
        table->part[format](latent, here, group.rows, buffers);
      }
    });
    parallel_for(std::ssize(parts) * heads, rows_per_chunk(rank), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / heads, h = i % heads;
        const kernels::LatentPart& first = parts[static_cast<size_t>(row)];
        table->combine[format](Matrix(o).row_range(first_row + row, 1).columns(h * rank, rank).data,
                               first, h, heads, rank, latent_parts(first.length));
      }
    });
  }
}

}  // namespace minke::ops
