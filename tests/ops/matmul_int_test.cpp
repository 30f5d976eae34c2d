// What matmul promises of integers beside its numbers, which the op cases compare with the
// reference.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "ops/isa_test_fixture.h"
#include "ops/matmul.h"
#include "ops/permute.h"
#include "tensor/integers.h"

namespace minke::ops {
namespace {

OwnedTensor random(int64_t rows, int64_t cols) {
  OwnedTensor out(DType::kF32, {rows, cols});
  Rng rng(stream_key(1, 0, "x"));
  for (float& v : out.span<float>()) v = static_cast<float>(rng.normal());
  return out;
}

TEST(MatmulInt, ARowsBytesDoNotDependOnTheOtherRows) {
  constexpr int64_t kM = 27, kN = 150, kK = 300;
  const OwnedTensor x = random(kM, kK), w = random(kN, kK);
  on_every_set([&] {
    for (const DType format : {DType::kI8, DType::kU8}) {
      const OwnedTensor codes(format, int_codes_shape({kN, kK}, format)),
          scales(DType::kBF16, int_scale_shape({kN, kK}, format)),
          memory(DType::kU8, {static_cast<int64_t>(packed_bytes(format, kN, kK))});
      quantize_integers(codes, scales, w);
      const Packed packed{static_cast<std::byte*>(memory.raw()), format, kN, kK};
      const PackJob job{packed, codes, scales};
      pack_rows(std::span(&job, 1));
      Arena scratch(size_t{1} << 20);
      const Matrix left = quantize_to_integers(scratch, x);
      const OwnedTensor all(DType::kF32, {kM, kN}), some(DType::kF32, {kM, kN});
      matmul({all, left, packed});
      for (int64_t M = 1; M < kM; ++M) {
        for (const int64_t first : {int64_t{0}, kM - M}) {
          matmul({some.rows(0, M), left.row_range(first, M), packed});
          EXPECT_EQ(bytes_of(some.rows(0, M)), bytes_of(all.rows(first, M))) << M << " rows";
        }
      }
    }
  });
}

// Codes as no quantiser of ours writes them, -128 beside numbers of both signs and of all sizes:
// scales are 1, so results are integers.
TEST(MatmulInt, EveryCodeIsMultipliedExactly) {
  constexpr int64_t kM = 7, kN = 40, kK = 256;
  OwnedTensor x(DType::kF32, {kM, kK});
  Rng rng(stream_key(1, 0, "codes"));
  for (int64_t i = 0; i < x.count(); ++i) {
    const int64_t any = static_cast<int64_t>(rng.below(255)) - 127, most = i % 3 == 0 ? -127 : 127;
    x.data<float>()[i] = static_cast<float>(i % kInt8Block == 0 || i < kK ? most : any);
  }
  on_every_set([&] {
    for (const DType format : {DType::kI8, DType::kU8}) {
      const OwnedTensor codes(format, int_codes_shape({kN, kK}, format)),
          scales(DType::kBF16, int_scale_shape({kN, kK}, format)), w(DType::kF32, {kN, kK}),
          memory(DType::kU8, {static_cast<int64_t>(packed_bytes(format, kN, kK))}),
          out(DType::kF32, {kM, kN});
      auto* byte = static_cast<uint8_t*>(codes.raw());
      const auto row = static_cast<int64_t>(codes.bytes()) / kN;
      for (int64_t i = 0; i < kN * row; ++i) {
        const bool least = i < row;  // all of the first row: -128, and twice -8
        byte[i] = least ? (format == DType::kI8 ? 0x80 : 0) : static_cast<uint8_t>(rng.below(256));
      }
      for (int64_t i = 0; i < scales.count(); ++i) scales.data<bf16>()[i] = bf16(1.0F);
      dequantize_integers(w, codes, scales);
      const Packed packed{static_cast<std::byte*>(memory.raw()), format, kN, kK};
      const PackJob job{packed, codes, scales};
      pack_rows(std::span(&job, 1));
      Arena scratch(size_t{1} << 16);
      matmul({out, quantize_to_integers(scratch, x), packed});
      for (int64_t r = 0; r < kM; ++r) {
        for (int64_t c = 0; c < kN; ++c) {
          double want = 0;
          for (int64_t k = 0; k < kK; ++k) {
            want += double{x.data<float>()[r * kK + k]} * double{w.data<float>()[c * kK + k]};
          }
          EXPECT_EQ(double{out.data<float>()[r * kN + c]}, want) << r << ", " << c;
        }
      }
    }
  });
}

TEST(MatmulInt, RowsAreGatheredWhole) {
  const OwnedTensor x = random(4, 130);
  Arena scratch(size_t{1} << 16);
  const Matrix rows = quantize_to_integers(scratch, x);
  const Matrix got = scratch.make(DType::kI8, {3, rows.cols});
  OwnedTensor tokens(DType::kI32, {3});
  const int32_t order[] = {2, 0, 2};
  std::ranges::copy(order, tokens.data<int32_t>());
  gather_rows(got, rows, tokens);
  for (int64_t r = 0; r < 3; ++r) {
    EXPECT_EQ(std::memcmp(got.row_range(r, 1).data, rows.row_range(order[r], 1).data,
                          static_cast<size_t>(rows.cols)),
              0);
  }
}

TEST(MatmulInt, WhatIsNotFiniteIsRefused) {
  on_every_set([] {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      OwnedTensor x = random(2, 130);
      x.data<float>()[129] = bad;
      Arena scratch(size_t{1} << 16);
      EXPECT_THROW(quantize_to_integers(scratch, x), Error);
    }
  });
}

}  // namespace
}  // namespace minke::ops
