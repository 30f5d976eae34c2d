#include "ops/kernels/attention.h"

#include "ops/kernels/attention_products.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

template <typename X>
void copy_row(X* to, const X* from, int64_t n) {
  __builtin_memcpy(static_cast<void*>(to), from, static_cast<size_t>(n) * sizeof(X));
}

template <typename X>
void pack(const PackedHead& to, const AttentionHead& head, const PackBuffers& buffers) {
  const int64_t S = head.value.rows, nope = head.k_nope.cols, width = nope + head.k_rope.cols;
  X* rows = static_cast<X*>(buffers.rows);
  const Panels<X> k{to.k_by_width, width};
  for (int64_t t = 0; t < S; t += kPanel) {
    const int64_t n = least(kPanel, S - t);
    for (int64_t r = 0; r < n; ++r) {
      copy_row(rows + r * width, row_of<X>(head.k_nope, t + r), nope);
      copy_row(rows + r * width + nope, row_of<X>(head.k_rope, t + r), width - nope);
    }
    Panels<X>{k.at(t, 0), width}.pack_rows({rows, head.q.dtype, n, width, width});
  }
  Panels<X>{to.v_by_key, S}.pack_columns(head.value);
}

template <typename X>
void forward(const AttentionHead& head, const PackedHead& packed, const ForwardBuffers& buffers,
             int64_t begin, int64_t end) {
  const int64_t S = head.q.rows, width = head.q.cols, v = head.value.cols, rows = end - begin;
  const Panels<X> k{packed.k_by_width, width}, values{packed.v_by_key, S};
  X *q = static_cast<X*>(buffers.q), *p = static_cast<X*>(buffers.p);
  SoftmaxRow state[kForwardQueries];
  for (int64_t r = 0; r < rows; ++r) {
    copy_row(q + r * width, row_of<X>(head.q, begin + r), width);
    state[r] = {-__builtin_inff(), 0};
  }
  fill_zero(buffers.o, rows * v);

  const int64_t first = head.first == nullptr ? 0 : head.first[begin];
  for (int64_t key = first / kPanel * kPanel; key < end; key += kForwardKeys) {
    const ScoreBlock block{head.first, begin, rows, key, least(kForwardKeys, end - key)};
    for (int64_t c = 0; c < block.keys; c += kPanel) {
      const int64_t n = least(kPanel, block.keys - c);
      const Range see = block.that_see(c, n);
      multiply(buffers.scores + see.begin * kForwardKeys + c, kForwardKeys,
               rows_of<X>(q + see.begin * width, width), see.end - see.begin, k, key + c, n, 0,
               width, false);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const Range seen = block.seen_by(r);
      X* p_row = p + r * kForwardKeys;
      if (seen.empty()) {
        fill_zero(p_row, block.keys);
        continue;
      }
      fill_zero(p_row, seen.begin);
      fill_zero(p_row + seen.end, block.keys - seen.end);
      const float shrink =
          softmax_row(p_row + seen.begin, buffers.scores + r * kForwardKeys + seen.begin,
                      seen.end - seen.begin, head.scale, state[r]);
      if (shrink != 1.0F) multiply_row(buffers.o + r * v, v, shrink);
    }
    const auto seen_by_group = [&](int64_t r, int64_t n) {
      return Range{block.seen_by(r).begin, block.seen_by(r + n - 1).end};
    };
    for_each_group(rows, seen_by_group, [&](int64_t r, int64_t n, Range keys) {
      multiply(buffers.o + r * v, v, rows_of<X>(p + r * kForwardKeys + keys.begin, kForwardKeys), n,
               values, 0, v, key + keys.begin, keys.end - keys.begin, true);
    });
  }

  for (int64_t r = 0; r < rows; ++r) {
    const float* sum = buffers.o + r * v;
    X* o = row_of<X>(head.o, begin + r);
    const Vec total = splat(state[r].sum);
    for_each_vector(v, [&](int64_t i, int n) { store_n(o + i, load_n(sum + i, n) / total, n); });
    head.lse[begin + r] = state[r].top + __builtin_logf(state[r].sum);
  }
}

}  // namespace

const AttentionKernels& attention_kernels() {
  static constexpr AttentionKernels kTable{{pack<float>, pack<bf16>},
                                           {forward<float>, forward<bf16>}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
