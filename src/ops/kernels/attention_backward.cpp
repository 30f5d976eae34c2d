#include "ops/kernels/attention.h"
#include "ops/kernels/attention_products.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

template <typename X>
void copy_rows(X* to, int64_t stride, const Matrix& from) {
  for (int64_t r = 0; r < from.rows; ++r) {
    __builtin_memcpy(static_cast<void*>(to + r * stride), row_of<X>(from, r),
                     static_cast<size_t>(from.cols) * sizeof(X));
  }
}

template <typename X>
void store_rows(const Matrix& to, int64_t row, const float* from, int64_t stride, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    X* out = row_of<X>(to, row + r);
    for_each_vector(
        to.cols, [&](int64_t i, int n) { store_n(out + i, load_n(from + r * stride + i, n), n); });
  }
}

// Everything of a head that products read, in their order.
template <typename X>
struct Operands {
  const X *q, *d_o;
  Panels<X> k_by_width, v_by_width, k_by_row, q_by_row, d_o_by_row;
};

template <typename X>
Operands<X> pack_operands(const AttentionHead& head, const BackwardBuffers& buffers) {
  const int64_t S = head.q.rows, width = head.q.cols, v = head.value.cols;
  const DType dtype = head.q.dtype;
  X *q = static_cast<X*>(buffers.q), *k = static_cast<X*>(buffers.k),
    *d_o = static_cast<X*>(buffers.d_o);
  copy_rows(q, width, head.q);
  copy_rows(k, width, head.k_nope);
  copy_rows(k + head.k_nope.cols, width, head.k_rope);
  copy_rows(d_o, v, head.d_o);
  const Operands<X> out{q,
                        d_o,
                        {buffers.k_by_width, width},
                        {buffers.v_by_width, v},
                        {buffers.k_by_row, S},
                        {buffers.q_by_row, S},
                        {buffers.d_o_by_row, S}};
  const Matrix k_rows{k, dtype, S, width, width};
  out.k_by_width.pack_rows(k_rows);
  out.v_by_width.pack_rows(head.value);
  out.k_by_row.pack_columns(k_rows);
  out.q_by_row.pack_columns({q, dtype, S, width, width});
  out.d_o_by_row.pack_columns({d_o, dtype, S, v, v});
  return out;
}

// scores and dscores of the block: p = e^(score - lse) and ds = p (dp - delta) scale, 0 where
// nothing is seen.
template <typename X>
void probabilities(const AttentionHead& head, const BackwardBuffers& buffers,
                   const ScoreBlock& block) {
  for (int64_t r = 0; r < block.queries; ++r) {
    const Range seen = block.seen_by(r);
    float* p = buffers.scores + r * kBackwardKeys;
    float* ds = buffers.dscores + r * kBackwardKeys;
    if (seen.empty()) {
      fill_zero(p, block.keys);
      fill_zero(ds, block.keys);
      continue;
    }
    fill_zero(p, seen.begin);
    fill_zero(ds, seen.begin);
    fill_zero(p + seen.end, block.keys - seen.end);
    fill_zero(ds + seen.end, block.keys - seen.end);
    const Vec scale = splat(head.scale), minus = splat(-head.lse[block.query + r]),
              delta = splat(buffers.delta[block.query + r]);
    for_each_in_step(seen.end - seen.begin, [&](int64_t i, auto n) {
      const int64_t at = seen.begin + i;
      const auto e = exp(fma(load_n(p + at, n), scale, minus));
      store_n(p + at, e, n);
      store_n(ds + at, e * (load_n(ds + at, n) - delta) * scale, n);
    });
  }
}

// p and ds as left operands: pairs of queries for sums over queries, rows for sums over keys.
// FP32 is read where it is.
struct LeftOperands {
  Left p_by_key, ds_by_key, ds_by_query;
};
LeftOperands left_operands(float*, const BackwardBuffers& buffers, const ScoreBlock&) {
  constexpr int64_t kRow = kBackwardKeys * static_cast<int64_t>(sizeof(float));
  constexpr int64_t kNumber = static_cast<int64_t>(sizeof(float));
  return {{buffers.scores, kNumber, kRow},
          {buffers.dscores, kNumber, kRow},
          {buffers.dscores, kRow, kNumber}};
}
LeftOperands left_operands(bf16*, const BackwardBuffers& buffers, const ScoreBlock& block) {
  bf16 *p = static_cast<bf16*>(buffers.p_pairs), *ds = static_cast<bf16*>(buffers.ds_pairs),
       *rows = static_cast<bf16*>(buffers.ds_rows);
  for (int64_t r = 0; r < block.queries; r += 2) {
    const float *p0 = buffers.scores + r * kBackwardKeys, *p1 = p0 + kBackwardKeys;
    const float *ds0 = buffers.dscores + r * kBackwardKeys, *ds1 = ds0 + kBackwardKeys;
    bf16 *row = rows + r * kBackwardKeys, *p_pair = p + r * kBackwardKeys,
         *ds_pair = ds + r * kBackwardKeys;
    const bool two = r + 1 < block.queries;
    for (int64_t k = 0; k < block.keys; k += kLanes) {
      store_pairs(p_pair + 2 * k, load(p0 + k), two ? load(p1 + k) : zero());
      store_pairs(ds_pair + 2 * k, load(ds0 + k), two ? load(ds1 + k) : zero(), row + k,
                  row + kBackwardKeys + k);
    }
  }
  constexpr int64_t kRow = kBackwardKeys * static_cast<int64_t>(sizeof(bf16));
  return {{p, kUnitBytes, 2 * kRow}, {ds, kUnitBytes, 2 * kRow}, {rows, kRow, kUnitBytes}};
}

Left move(const Left& left, int64_t row, int64_t unit) {
  return {
      static_cast<const std::byte*>(left.data) + row * left.row_stride + unit * left.unit_stride,
      left.row_stride, left.unit_stride};
}

template <typename X>
void backward_block(const AttentionHead& head, const Operands<X>& in,
                    const BackwardBuffers& buffers, const ScoreBlock& block) {
  const int64_t width = head.q.cols, v = head.value.cols;
  for (int64_t c = 0; c < block.keys; c += kPanel) {
    const int64_t n = least(kPanel, block.keys - c);
    const Range see = block.that_see(c, n);
    if (see.empty()) continue;
    const int64_t at = see.begin * kBackwardKeys + c, query = block.query + see.begin;
    multiply(buffers.scores + at, kBackwardKeys, rows_of<X>(in.q + query * width, width),
             see.end - see.begin, in.k_by_width, block.key + c, n, 0, width, false);
    multiply(buffers.dscores + at, kBackwardKeys, rows_of<X>(in.d_o + query * v, v),
             see.end - see.begin, in.v_by_width, block.key + c, n, 0, v, false);
  }
  probabilities<X>(head, buffers, block);
  const LeftOperands left = left_operands(static_cast<X*>(nullptr), buffers, block);

  const auto that_see = [&](int64_t k, int64_t n) { return block.that_see(k, n); };
  for_each_group(block.keys, that_see, [&](int64_t k, int64_t n, Range queries) {
    const int64_t unit = queries.begin / kUnitNumbers<X>, from = block.query + queries.begin,
                  count = queries.end - queries.begin;
    multiply(buffers.dv + k * v, v, move(left.p_by_key, k, unit), n, in.d_o_by_row, 0, v, from,
             count, true);
    multiply(buffers.dk + k * width, width, move(left.ds_by_key, k, unit), n, in.q_by_row, 0, width,
             from, count, true);
  });
  const auto seen_by = [&](int64_t r, int64_t n) {
    return Range{block.seen_by(r).begin, block.seen_by(r + n - 1).end};
  };
  for_each_group(block.queries, seen_by, [&](int64_t r, int64_t n, Range keys) {
    multiply(buffers.dq + (block.query + r) * width, width,
             move(left.ds_by_query, r, keys.begin / kUnitNumbers<X>), n, in.k_by_row, 0, width,
             block.key + keys.begin, keys.end - keys.begin, true);
  });
}

// Keys in blocks, each beside all queries that see it: dk and dv of a block are whole when it is
// done, dq grows block by block.
template <typename X>
void backward(const AttentionHead& head, const BackwardBuffers& buffers) {
  const int64_t S = head.q.rows, width = head.q.cols, nope = head.k_nope.cols, v = head.value.cols;
  const Operands<X> in = pack_operands<X>(head, buffers);
  for (int64_t t = 0; t < S; ++t) {
    const X *o = row_of<X>(head.o, t), *d_o = row_of<X>(head.d_o, t);
    buffers.delta[t] =
        sum_vectors(v, [&](int64_t i, auto n) { return load_n(o + i, n) * load_n(d_o + i, n); });
  }
  fill_zero(buffers.dq, S * width);
  for (int64_t key = 0; key < S; key += kBackwardKeys) {
    const int64_t keys = least(kBackwardKeys, S - key);
    fill_zero(buffers.dk, keys * width);
    fill_zero(buffers.dv, keys * v);
    for (int64_t query = key / kBackwardQueries * kBackwardQueries; query < S;
         query += kBackwardQueries) {
      if (head.first != nullptr && head.first[query] >= key + keys) break;
      backward_block(head, in, buffers,
                     {head.first, query, least(kBackwardQueries, S - query), key, keys});
    }
    store_rows<X>(head.dk_nope, key, buffers.dk, width, keys);
    store_rows<X>(head.dvalue, key, buffers.dv, v, keys);
    for (int64_t r = 0; r < keys; ++r) {
      const int64_t rope = width - nope;
      __builtin_memcpy(head.dk_rope + (key + r) * rope, buffers.dk + r * width + nope,
                       static_cast<size_t>(rope) * sizeof(float));
    }
  }
  store_rows<X>(head.dq, 0, buffers.dq, width, S);
}

template <typename X>
void sum_heads(void* dk_rope, const float* parts, int64_t heads, int64_t head_stride, int64_t begin,
               int64_t end) {
  X* out = static_cast<X*>(dk_rope);
  for_each_vector(end - begin, [&](int64_t i, int n) {
    Vec sum = load_n(parts + begin + i, n);
    for (int64_t h = 1; h < heads; ++h) {
      sum = sum + load_n(parts + h * head_stride + begin + i, n);
    }
    store_n(out + begin + i, sum, n);
  });
}

}  // namespace

const AttentionBackwardKernels& attention_backward_kernels() {
  static constexpr AttentionBackwardKernels kTable{{backward<float>, backward<bf16>},
                                                   {sum_heads<float>, sum_heads<bf16>}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
