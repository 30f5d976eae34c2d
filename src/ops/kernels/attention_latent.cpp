#include <utility>

#include "ops/kernels/attention.h"
#include "ops/kernels/attention_products.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

// What the scores of a row's `keys` tokens make of their latents.
template <typename X>
void weigh(const LatentRows& rows, const LatentPart& part, const LatentBuffers& buffers,
           int64_t keys) {
  X* p = static_cast<X*>(buffers.p);
  for (int64_t h = 0; h < rows.heads; ++h) {
    SoftmaxRow state{part.top[h], part.sum[h]};
    const float shrink =
        softmax_row(p + h * kLatentKeys, buffers.scores + h * kLatentKeys, keys, rows.scale, state);
    part.top[h] = state.top;
    part.sum[h] = state.sum;
    if (shrink != 1.0F) multiply_row(part.o + h * rows.rank, rows.rank, shrink);
  }
}

// A row beside `keys` tokens that are packed.
template <typename X>
void add_tokens(const LatentRows& rows, const LatentPart& part, const LatentBuffers& buffers,
                int64_t keys) {
  const int64_t width = rows.rank + rows.rope;
  multiply(buffers.scores, kLatentKeys, rows_of<X>(part.q, width), rows.heads,
           Panels<X>{buffers.by_width, width}, 0, keys, 0, width, false);
  weigh<X>(rows, part, buffers, keys);
  multiply(part.o, rows.rank, rows_of<X>(buffers.p, kLatentKeys), rows.heads,
           Panels<X>{buffers.by_key, kLatentKeys}, 0, rows.rank, 0, keys, true);
}

#if defined(MINKE_TARGET_avx512)

// o[kHeads, rank] += p[kHeads, keys] . latents[keys, rank], as by packed latents, from where they
// are.
template <int kHeads>
void add_latents(float* o, const bf16* p, const bf16* latents, int64_t width, int64_t rank,
                 int64_t keys) {
  constexpr int64_t kColumns = 2 * kLanes;
  // Unpacking words leaves columns in fours of the first, then of the second half.
  const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i rest =
      _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  for (int64_t c = 0; c < rank; c += kColumns) {
    const auto columns = static_cast<int>(least(kColumns, rank - c));
    const auto mask = static_cast<__mmask32>((uint64_t{1} << columns) - 1);
    // Loops over them are unrolled: indexed, they would be kept in memory all along.
    __m512 sum[kHeads][2] = {};
    const auto add = [&](int64_t key, __m512i second, auto numbers) __attribute__((always_inline)) {
      const __m512i first = _mm512_maskz_loadu_epi16(mask, latents + key * width + c);
      const __m512i pairs[2] = {_mm512_unpacklo_epi16(first, second),
                                _mm512_unpackhi_epi16(first, second)};
#pragma GCC unroll 16
      for (int h = 0; h < kHeads; ++h) {
        uint32_t pair = 0;
        __builtin_memcpy(&pair, p + h * kLatentKeys + key, numbers() * sizeof(bf16));
        const auto left = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(pair)));
        for (int v = 0; v < 2; ++v) {
          sum[h][v] = _mm512_dpbf16_ps(sum[h][v], left, reinterpret_cast<__m512bh>(pairs[v]));
        }
      }
    };
    for (int64_t key = 0; key + 1 < keys; key += 2) {
      add(key, _mm512_maskz_loadu_epi16(mask, latents + (key + 1) * width + c),
          std::integral_constant<int, 2>());
    }
    if (keys % 2 != 0) add(keys - 1, _mm512_setzero_si512(), std::integral_constant<int, 1>());
#pragma GCC unroll 16
    for (int h = 0; h < kHeads; ++h) {
      float* to = o + h * rank + c;
      const Vec in_order[2] = {{_mm512_permutex2var_ps(sum[h][0], order, sum[h][1])},
                               {_mm512_permutex2var_ps(sum[h][0], rest, sum[h][1])}};
      for_each_vector(columns, [&](int64_t i, int n) {
        store_n(to + i, load_n(to + i, n) + in_order[i / kLanes], n);
      });
    }
  }
}

template <int... kHeadsLessOne>
void add_latents(const LatentRows& rows, float* o, const bf16* p, const bf16* latents, int64_t keys,
                 std::integer_sequence<int, kHeadsLessOne...>) {
  constexpr int64_t kMost = sizeof...(kHeadsLessOne);
  static constexpr void (*kOf[])(float*, const bf16*, const bf16*, int64_t, int64_t,
                                 int64_t) = {add_latents<kHeadsLessOne + 1>...};
  for (int64_t h = 0; h < rows.heads; h += kMost) {
    kOf[least(kMost, rows.heads - h) - 1](o + h * rows.rank, p + h * kLatentKeys, latents,
                                          rows.rank + rows.rope, rows.rank, keys);
  }
}

// As add_tokens, for one row alone: packing what nobody else reads would take longer than it, in
// memory that the weights between two layers have pushed out of the caches.
void add_row(const LatentRows& rows, const LatentPart& part, const LatentBuffers& buffers,
             const bf16* cache, int64_t keys) {
  constexpr int kMostHeads = 8;  // 16 sums, 4 of the latents
  const int64_t width = rows.rank + rows.rope;
  const Panels<bf16> panel{buffers.by_width, width};
  for (int64_t k = 0; k < keys; k += kPanel) {
    const int64_t n = least(kPanel, keys - k);
    panel.pack_rows({const_cast<bf16*>(cache + k * width), DType::kBF16, n, width, width});
    multiply(buffers.scores + k, kLatentKeys, rows_of<bf16>(part.q, width), rows.heads, panel, 0, n,
             0, width, false);
  }
  weigh<bf16>(rows, part, buffers, keys);
  add_latents(rows, part.o, static_cast<const bf16*>(buffers.p), cache, keys,
              std::make_integer_sequence<int, kMostHeads>());
}

#endif

// Reads a run of memory, so that it is near: processors fetch one run ahead, not many short ones
// side by side, as packing and products read.
void read_through(const void* data, int64_t bytes) {
  constexpr int64_t kCacheLine = 64;
  const auto* from = static_cast<const volatile unsigned char*>(data);
  for (int64_t at = 0; at < bytes; at += kCacheLine) static_cast<void>(from[at]);
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
    read_through(cache, keys * width * static_cast<int64_t>(sizeof(X)));
    constexpr DType kDType = kFormat<X> == 1 ? DType::kBF16 : DType::kF32;
#if defined(MINKE_TARGET_avx512)
    if constexpr (kFormat<X> == 1) {
      if (count == 1) {
        add_row(rows, parts[0], buffers, cache, least(keys, parts[0].length - key));
        continue;
      }
    }
#endif
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
