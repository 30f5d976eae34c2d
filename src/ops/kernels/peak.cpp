#include "ops/kernels/peak.h"

#include "ops/kernels/simd.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

// Twice as many running sums as hide the latency of a multiply-add on any core of these sets.
#if defined(MINKE_TARGET_avx512)
constexpr int kSums = 24;
#elif defined(MINKE_TARGET_avx2)
constexpr int kSums = 12;
#else
constexpr int kSums = 32;
#endif

// Hides a value from the compiler, which would leave out sums that nothing reads, and take sums
// that begin alike for one.
template <typename T>
inline void keep(T& value) {
#if defined(MINKE_TARGET_scalar)
  asm volatile("" : "+m"(value));
#else
  asm volatile("" : "+v"(value));
#endif
}

#if defined(MINKE_TARGET_scalar)

// Sums side by side, as the naive product's.
double multiply_f32(int64_t rounds) {
  float sums[kSums] = {};
  keep(sums);
  float a = 0.5F;
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+x"(a));
    for (float& sum : sums) sum += a * a;
  }
  keep(sums);
  return static_cast<double>(rounds) * kSums * 2;
}

#else

double multiply_f32(int64_t rounds) {
  decltype(Vec::v) sums[kSums] = {};
  for (auto& sum : sums) keep(sum);
  Vec a = splat(0.5F), b = splat(0.25F);
  for (int64_t i = 0; i < rounds; ++i) {
    keep(a.v);
    keep(b.v);
#pragma GCC unroll 24
    for (auto& sum : sums) sum = fma(a, b, Vec{sum}).v;
  }
#pragma GCC unroll 24
  for (auto& sum : sums) keep(sum);
  return static_cast<double>(rounds) * kSums * kLanes * 2;
}

#endif

#if defined(MINKE_TARGET_avx512)

double multiply_bf16(int64_t rounds) {
  __m512 sums[kSums] = {};
  for (auto& sum : sums) keep(sum);
  __m512i a = _mm512_set1_epi16(0x3f00), b = _mm512_set1_epi16(0x3e80);
  for (int64_t i = 0; i < rounds; ++i) {
    keep(a);
    keep(b);
#pragma GCC unroll 24
    for (auto& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    }
  }
#pragma GCC unroll 24
  for (auto& sum : sums) keep(sum);
  return static_cast<double>(rounds) * kSums * kLanes * 4;
}

#else

// BF16 operands are widened: their multiply-adds are those of FP32.
double multiply_bf16(int64_t rounds) { return multiply_f32(rounds); }

#endif

#if defined(MINKE_TARGET_avx512)
using Words = __m512i;
#elif defined(MINKE_TARGET_avx2)
using Words = __m256i;
#else
using Words = uint64_t;
#endif
constexpr size_t kPiece = 256;
constexpr int kLoads = kPiece / sizeof(Words);

inline Words words_at(const std::byte* p) {
  Words w;
  __builtin_memcpy(&w, p, sizeof w);
  return w;
}

uint32_t read(const std::byte* data, size_t n) {
  Words sums[kLoads] = {};
  for (size_t i = 0; i + kPiece <= n; i += kPiece) {
#pragma GCC unroll 32
    for (int j = 0; j < kLoads; ++j) sums[j] |= words_at(data + i + j * sizeof(Words));
  }
  for (int j = 1; j < kLoads; ++j) sums[0] |= sums[j];
  uint32_t words[sizeof(Words) / sizeof(uint32_t)], all = 0;
  __builtin_memcpy(words, sums, sizeof words);
  for (const uint32_t word : words) all |= word;
  return all;
}

void update(std::byte* data, size_t n) {
  for (size_t i = 0; i + kPiece <= n; i += kPiece) {
#pragma GCC unroll 32
    for (int j = 0; j < kLoads; ++j) {
      std::byte* p = data + i + j * sizeof(Words);
      const Words w = words_at(p) + Words{} + 1;
      __builtin_memcpy(p, &w, sizeof w);
    }
  }
}

void move(std::byte* to, size_t m, const std::byte* from, size_t n) {
  Words word{};
  size_t written = 0;
  for (size_t i = 0; i + kPiece <= n; i += kPiece) {
#pragma GCC unroll 32
    for (int j = 0; j < kLoads; ++j) word |= words_at(from + i + j * sizeof(Words));
    for (const size_t due = (i + kPiece) * m / n; written + kPiece <= due; written += kPiece) {
#pragma GCC unroll 32
      for (int j = 0; j < kLoads; ++j) {
        __builtin_memcpy(to + written + j * sizeof(Words), &word, sizeof word);
      }
    }
  }
}

}  // namespace

const PeakKernels& peak_kernels() {
  static constexpr PeakKernels kTable{multiply_f32, multiply_bf16, read, update, move};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
