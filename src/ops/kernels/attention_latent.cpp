#include "ops/kernels/attention.h"
#include "ops/kernels/attention_products.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

// A row beside `keys` tokens that are packed.
template <typename X>
void add_tokens(const LatentRows& rows, const LatentPart& part, const LatentBuffers& buffers,
                int64_t keys) {
  const int64_t width = rows.rank + rows.rope;
  X* p = static_cast<X*>(buffers.p);
  multiply(buffers.scores, kLatentKeys, rows_of<X>(part.q, width), rows.heads,
           Panels<X>{buffers.by_width, width}, 0, keys, 0, width, false);
  for (int64_t h = 0; h < rows.heads; ++h) {
    SoftmaxRow state{part.top[h], part.sum[h]};
    const float shrink =
        softmax_row(p + h * kLatentKeys, buffers.scores + h * kLatentKeys, keys, rows.scale, state);
    part.top[h] = state.top;
    part.sum[h] = state.sum;
    if (shrink != 1.0F) multiply_row(part.o + h * rows.rank, rows.rank, shrink);
  }
  multiply(part.o, rows.rank, rows_of<X>(p, kLatentKeys), rows.heads,
           Panels<X>{buffers.by_key, kLatentKeys}, 0, rows.rank, 0, keys, true);
}

template <typename X>
void part(const LatentRows& rows, const LatentPart* parts, int64_t count,
          const LatentBuffers& buffers) {
  const int64_t width = rows.rank + rows.rope;
  int64_t longest = 0;
  for (int64_t i = 0; i < count; ++i) {
    longest = most(longest, parts[i].length);
    if (parts[i].length <= rows.begin) continue;
    fill_zero(parts[i].o, rows.heads * rows.rank);
    for (int64_t h = 0; h < rows.heads; ++h) {
      parts[i].top[h] = -__builtin_inff();
      parts[i].sum[h] = 0;
    }
  }
  const int64_t end = least(rows.end, longest);
  for (int64_t key = rows.begin; key < end; key += kLatentKeys) {
    const int64_t keys = least(kLatentKeys, end - key);
    const X* cache = static_cast<const X*>(rows.cache) + key * width;
    constexpr DType kDType = kFormat<X> == 1 ? DType::kBF16 : DType::kF32;
    const Matrix latent{const_cast<X*>(cache), kDType, keys, rows.rank, width};
    Panels<X>{buffers.by_width, width}.pack_rows({latent.data, kDType, keys, width, width});
    Panels<X>{buffers.by_key, kLatentKeys}.pack_columns(latent);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t seen = least(keys, parts[i].length - key);
      if (seen > 0) add_tokens<X>(rows, parts[i], buffers, seen);
    }
  }
}

template <typename X>
void combine(void* o, const LatentPart& first, int64_t head, int64_t heads, int64_t rank,
             int64_t parts) {
  float top = first.top[head];
  for (int64_t b = 1; b < parts; ++b) {
    const float here = first.top[b * heads + head];
    top = here > top ? here : top;
  }
  float* total = first.o + head * rank;
  float sum = 0;
  for (int64_t b = 0; b < parts; ++b) {
    const int64_t at = b * heads + head;
    const Vec factor = exp(splat(first.top[at] - top));
    sum += first.sum[at] * reduce_max(factor);
    const float* from = first.o + at * rank;
    for_each_vector(rank, [&](int64_t i, int n) {
      const Vec before = b == 0 ? zero() : load_n(total + i, n);
      store_n(total + i, fma(load_n(from + i, n), factor, before), n);
    });
  }
  X* out = static_cast<X*>(o);
  for_each_vector(
      rank, [&](int64_t i, int n) { store_n(out + i, load_n(total + i, n) / splat(sum), n); });
}

}  // namespace

const LatentKernels& latent_kernels() {
  static constexpr LatentKernels kTable{{part<float>, part<bf16>}, {combine<float>, combine<bf16>}};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
