// What matmul promises of codes beside its numbers, which the op cases compare with the reference.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "ops/isa_test_fixture.h"
#include "ops/matmul.h"
#include "tensor/scales.h"

namespace minke::ops {
namespace {

// Codes [n, k] with blocks of 128x128, packed.
struct Weight {
  OwnedTensor codes, scales, memory;
  Packed packed;
};
Weight weight(int64_t n, int64_t k) {
  Weight w{OwnedTensor(DType::kE4M3, {n, k}),
           OwnedTensor(DType::kF32, scale_shape({n, k}, kBlock128x128)),
           OwnedTensor(DType::kU8, {static_cast<int64_t>(packed_bytes(DType::kE4M3, n, k))}),
           {}};
  w.packed = {static_cast<std::byte*>(w.memory.raw()),
              DType::kE4M3,
              n,
              k,
              {w.scales.data<float>(), 128, w.scales.dim(1), 1}};
  return w;
}
void pack(const Weight& w) {
  const PackJob job{w.packed, w.codes};
  pack_rows(std::span(&job, 1));
}
Weight random_weight(int64_t n, int64_t k) {
  Weight w = weight(n, k);
  OwnedTensor x(DType::kF32, {n, k});
  Rng rng(stream_key(1, 0, "w"));
  for (float& v : x.span<float>()) v = static_cast<float>(rng.normal());
  quantize_e4m3(w.codes, w.scales, x, kBlock128x128, ScaleFormat::kF32);
  pack(w);
  return w;
}

OwnedTensor numbers(DType dtype, int64_t rows, int64_t cols, float (*number)(Rng&)) {
  OwnedTensor out(dtype, {rows, cols});
  Rng rng(stream_key(1, 0, "x"));
  for (int64_t i = 0; i < out.count(); ++i) {
    const float v = number(rng);
    if (dtype == DType::kBF16) {
      out.span<bf16>()[i] = bf16(v);
    } else {
      out.span<float>()[i] = v;
    }
  }
  return out;
}

// One code a row of w, times 1: the sum is the code's number.
TEST(MatmulFp8, EveryCodeIsItsNumber) {
  on_every_set([&] {
    for (const DType left : {DType::kF32, DType::kBF16}) {
      for (const int64_t M : {1, 20}) {  // codes widened as they are used, and before
        Weight w = weight(256, 3);
        for (int64_t n = 0; n < 256; ++n) {
          for (int64_t k = 0; k < 3; ++k) {
            static_cast<uint8_t*>(w.codes.raw())[n * 3 + k] =
                k == n % 3 ? static_cast<uint8_t>(n) : uint8_t{0};
          }
        }
        for (float& s : w.scales.span<float>()) s = 1;
        pack(w);
        const OwnedTensor x = numbers(left, M, 3, [](Rng&) { return 1.0F; });
        OwnedTensor y(DType::kF32, {M, 256});
        matmul({y, x, w.packed});
        for (int64_t m = 0; m < M; ++m) {
          for (int64_t n = 0; n < 256; ++n) {
            const float got = y.data<float>()[m * 256 + n];
            const float want = e4m3_decode(static_cast<uint8_t>(n));
            if (std::isnan(want)) {
              EXPECT_TRUE(std::isnan(got)) << n;
            } else {
              EXPECT_EQ(got, want) << n;
            }
          }
        }
      }
    }
  });
}

TEST(MatmulFp8, ARowsBytesDoNotDependOnTheOtherRows) {
  constexpr int64_t kM = 27, kN = 150;
  on_every_set([&] {
    for (const DType format : {DType::kF32, DType::kBF16}) {
      for (const int64_t K : {37, 300}) {
        const OwnedTensor left =
            numbers(format, kM, K, [](Rng& rng) { return static_cast<float>(rng.normal()); });
        const Weight w = random_weight(kN, K);
        OwnedTensor all(DType::kF32, {kM, kN}), some(DType::kF32, {kM, kN});
        matmul({all, left, w.packed});
        for (int64_t M = 1; M < kM; ++M) {
          for (const int64_t first : {int64_t{0}, kM - M}) {
            matmul({some.rows(0, M), left.rows(first, M), w.packed});
            EXPECT_EQ(bytes_of(some.rows(0, M)), bytes_of(all.rows(first, M)))
                << M << " rows from " << first << ", K = " << K;
          }
        }
      }
    }
  });
}

// The sums of E4M3 scaled at every 128, as the kernels' header tells it: 2^24 + 1 would be lost.
TEST(MatmulFp8, EveryBlockOfTheSumIsAddedUpByItself) {
  constexpr int64_t kK = 256;
  on_every_set([&] {
    Weight w = weight(1, kK);
    auto* codes = static_cast<uint8_t*>(w.codes.raw());
    for (int64_t k = 0; k < kK; ++k) codes[k] = e4m3_encode(1);
    w.scales.data<float>()[0] = 0x1p20F;
    w.scales.data<float>()[1] = 0x1p-4F;
    pack(w);
    OwnedTensor x = numbers(DType::kBF16, 1, kK, [](Rng&) { return 1.0F; });
    OwnedTensor y(DType::kF32, {1, 1});
    matmul({y, x, w.packed});
    EXPECT_EQ(y.data<float>()[0], 0x1p27F + 8.0F);  // 128 * 2^20 + 128 / 16
  });
}

TEST(MatmulFp8, PackingIsTheSameFromRowsAndColumnsOnEverySet) {
  for (const int64_t n : {1, 31, 32, 33, 300}) {
    for (const int64_t k : {1, 2, 129, 131}) {
      OwnedTensor w(DType::kE4M3, {n, k}), transposed(DType::kE4M3, {k, n});
      Rng rng(stream_key(1, 0, "w"));
      auto* code = static_cast<uint8_t*>(w.raw());
      for (int64_t i = 0; i < n * k; ++i) {
        code[i] = static_cast<uint8_t>(rng.below(255) + 1);
        static_cast<uint8_t*>(transposed.raw())[i % k * n + i / k] = code[i];
      }
      on_every_set([&] {
        const auto size = static_cast<int64_t>(packed_bytes(DType::kE4M3, n, k));
        OwnedTensor by_rows(DType::kU8, {size}), by_columns(DType::kU8, {size});
        const PackJob rows{{reinterpret_cast<std::byte*>(by_rows.raw()), DType::kE4M3, n, k}, w};
        const PackJob columns{{reinterpret_cast<std::byte*>(by_columns.raw()), DType::kE4M3, n, k},
                              transposed};
        pack_rows(std::span(&rows, 1));
        pack_columns(std::span(&columns, 1));
        EXPECT_EQ(bytes_of(by_rows), bytes_of(by_columns)) << n << " x " << k;
        std::vector<uint8_t> want(static_cast<size_t>(size));
        for (int64_t i = 0; i < n * k; ++i) {
          const int64_t c = i / k % 32, panel = i / k / 32, u = i % k / 2;
          const int64_t unit = (panel * ((k + 1) / 2) + u) * 64;
          want[static_cast<size_t>(unit + 2 * (c % 16 / 4 * 8 + c / 16 * 4 + c % 4) + i % k % 2)] =
              code[i];
        }
        EXPECT_EQ(bytes_of(by_rows), want) << n << " x " << k;
      });
    }
  }
}

}  // namespace
}  // namespace minke::ops
