// What matmul promises beside its numbers, which the op cases compare with the reference.
#include "ops/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "ops/isa_test_fixture.h"

namespace minke::ops {
namespace {

constexpr float kNoNumber = std::numeric_limits<float>::quiet_NaN();

void put(const Matrix& x, int64_t r, int64_t c, float value) {
  if (x.dtype == DType::kBF16) {
    x.row<bf16>(r)[c] = bf16(value);
  } else {
    x.row<float>(r)[c] = value;
  }
}

OwnedTensor random(DType dtype, int64_t rows, int64_t cols, std::string_view what) {
  OwnedTensor out(dtype, {rows, cols});
  Rng rng(stream_key(1, 0, what));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) put(out, r, c, static_cast<float>(rng.normal()));
  }
  return out;
}

// An operand and its memory.
struct Operand {
  OwnedTensor memory;
  Packed packed;
};
Operand packed_rows(const Matrix& w, DType format) {
  Operand out;
  const auto bytes = static_cast<int64_t>(packed_bytes(format, w.rows, w.cols));
  out.memory = OwnedTensor(DType::kU8, {bytes});
  out.packed = {static_cast<std::byte*>(out.memory.raw()), format, w.rows, w.cols};
  const PackJob job{out.packed, w};
  pack_rows(std::span(&job, 1));
  return out;
}

// Every set of instructions that this machine has, with either format.
class Matmul : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Formats, Matmul, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& format) { return std::string(name_of(format.param)); });

TEST_P(Matmul, ARowsBytesDoNotDependOnTheOtherRows) {
  constexpr int64_t kM = 17, kN = 75;
  on_every_set([&] {
    for (const int64_t K : {37, 2300}) {
      const OwnedTensor left = random(GetParam(), kM, K, "left");
      const OwnedTensor w = random(GetParam(), kN, K, "w");
      const Operand right = packed_rows(w, GetParam());
      OwnedTensor all(DType::kF32, {kM, kN}), some(DType::kF32, {kM, kN});
      matmul({all, left, right.packed});
      for (int64_t M = 1; M < kM; ++M) {
        for (const int64_t first : {int64_t{0}, kM - M}) {
          matmul({some.rows(0, M), left.rows(first, M), right.packed});
          EXPECT_EQ(bytes_of(some.rows(0, M)), bytes_of(all.rows(first, M)))
              << M << " rows from " << first << ", K = " << K;
        }
      }
    }
  });
}

TEST_P(Matmul, AGroupIsItsProductsAloneForAnyNumberOfThreads) {
  constexpr int64_t kN = 200, kK = 65;
  const std::vector<int64_t> sizes{5, 0, 131, 1, 64};
  const int threads = thread_count();
  on_every_set([&] {
    const OwnedTensor left = random(GetParam(), 201, kK, "left");
    const OwnedTensor dy = random(GetParam(), 201, kN, "dy");
    std::vector<Operand> weights;
    for (size_t e = 0; e < sizes.size(); ++e) {
      weights.push_back(
          packed_rows(random(GetParam(), kN, kK, fmt::format("w {}", e)), GetParam()));
    }
    OwnedTensor alone(DType::kF32, {201, kN}), grouped(DType::kF32, {201, kN});
    OwnedTensor dw_alone(DType::kF32, {5 * kN, kK}), dw_grouped(DType::kF32, {5 * kN, kK});
    std::vector<Product> products;
    std::vector<WeightGradient> gradients;
    Arena scratch(size_t{1} << 22);
    set_thread_count(1);
    int64_t row = 0;
    for (size_t e = 0; e < sizes.size(); ++e) {
      const int64_t M = sizes[e], out = static_cast<int64_t>(e) * kN;
      matmul({alone.rows(row, M), left.rows(row, M), weights[e].packed});
      products.push_back({grouped.rows(row, M), left.rows(row, M), weights[e].packed});
      const WeightGradient gradient{dw_alone.rows(out, kN), dy.rows(row, M), left.rows(row, M)};
      matmul_wgrad(std::span(&gradient, 1), GetParam(), scratch);
      gradients.push_back({dw_grouped.rows(out, kN), dy.rows(row, M), left.rows(row, M)});
      row += M;
    }
    set_thread_count(3);
    matmul(products);
    matmul_wgrad(gradients, GetParam(), scratch);
    set_thread_count(threads);
    EXPECT_EQ(bytes_of(grouped), bytes_of(alone));
    EXPECT_EQ(bytes_of(dw_grouped), bytes_of(dw_alone));
  });
}

TEST_P(Matmul, NothingBesideTheOperandsIsRead) {
  constexpr int64_t kN = 9, kK = 7;  // odd: a pair begins within the row and ends beyond it
  const auto reads_its_own = [&](int64_t rows) {
    OwnedTensor wide_left(GetParam(), {rows, kK + 1}), wide_w(GetParam(), {kN, kK + 1});
    OwnedTensor out(DType::kF32, {rows, kN});
    for (int64_t c = 0; c <= kK; ++c) {
      for (int64_t r = 0; r < rows; ++r) put(wide_left, r, c, c < kK ? 1 : kNoNumber);
      for (int64_t r = 0; r < kN; ++r) put(wide_w, r, c, c < kK ? 1 : kNoNumber);
    }
    const Matrix left = Matrix(wide_left).columns(0, kK), w = Matrix(wide_w).columns(0, kK);
    matmul({out, left, packed_rows(w, GetParam()).packed});
    for (const float v : out.span<float>()) EXPECT_EQ(v, kK);

    OwnedTensor dw(DType::kF32, {kK, kK});
    Arena scratch(size_t{1} << 20);
    const WeightGradient gradient{dw, left, left.row_range(0, rows), false};
    matmul_wgrad(std::span(&gradient, 1), GetParam(), scratch);
    for (const float v : dw.span<float>()) EXPECT_EQ(v, rows);
  };
  on_every_set([&] {
    for (const int64_t m : {1, 2, 5, 13}) reads_its_own(m);  // few of them, and others
  });
}

TEST_P(Matmul, NanAndInfinityReachTheirRowAndColumnOnly) {
  constexpr int64_t kM = 3, kN = 33, kK = 5;
  on_every_set([&] {
    OwnedTensor left(GetParam(), {kM, kK}), w(GetParam(), {kN, kK}), out(DType::kF32, {kM, kN});
    for (int64_t c = 0; c < kK; ++c) {
      for (int64_t r = 0; r < kM; ++r) put(left, r, c, 1);
      for (int64_t r = 0; r < kN; ++r) put(w, r, c, 1);
    }
    put(left, 1, kK - 1, kNoNumber);
    put(w, kN - 1, 2, -std::numeric_limits<float>::infinity());
    matmul({out, left, packed_rows(w, GetParam()).packed});
    for (int64_t r = 0; r < kM; ++r) {
      for (int64_t c = 0; c < kN; ++c) {
        const float v = Matrix(out).row<float>(r)[c];
        if (r == 1) {
          EXPECT_TRUE(std::isnan(v));
        } else if (c == kN - 1) {
          EXPECT_EQ(v, -std::numeric_limits<float>::infinity());
        } else {
          EXPECT_EQ(v, kK);
        }
      }
    }
  });
}

TEST_P(Matmul, AccumulatingAddsTheWholeProduct) {
  constexpr int64_t kM = 6, kN = 40, kK = 2101;
  on_every_set([&] {
    const OwnedTensor left = random(GetParam(), kM, kK, "left");
    const Operand right = packed_rows(random(GetParam(), kN, kK, "w"), GetParam());
    OwnedTensor product(DType::kF32, {kM, kN});
    const OwnedTensor sum = random(DType::kF32, kM, kN, "before");
    const OwnedTensor before = random(DType::kF32, kM, kN, "before");
    matmul({product, left, right.packed});
    matmul({sum, left, right.packed, true});
    for (size_t i = 0; i < sum.span<float>().size(); ++i) {
      EXPECT_EQ(sum.span<float>()[i], before.span<float>()[i] + product.span<float>()[i]);
    }
  });
}

TEST_P(Matmul, ABf16ResultIsTheSumRoundedOnce) {
  constexpr int64_t kM = 6, kN = 41, kK = 19;
  on_every_set([&] {
    const OwnedTensor left = random(GetParam(), kM, kK, "left");
    const Operand right = packed_rows(random(GetParam(), kN, kK, "w"), GetParam());
    OwnedTensor exact(DType::kF32, {kM, kN}), rounded(DType::kBF16, {kM, kN});
    matmul({exact, left, right.packed});
    matmul({rounded, left, right.packed});
    for (size_t i = 0; i < exact.span<float>().size(); ++i) {
      EXPECT_EQ(rounded.span<bf16>()[i].bits, bf16(exact.span<float>()[i]).bits);
    }
  });
}

TEST_P(Matmul, EmptySizes) {
  const OwnedTensor numbers = random(DType::kF32, 1, 12, "before");
  on_every_set([&] {
    Arena scratch(size_t{1} << 20);
    for (const int64_t M : {0, 2}) {
      for (const int64_t N : {0, 3}) {
        for (const int64_t K : {0, 4}) {
          const auto zeros = [&](DType dtype, int64_t rows, int64_t cols) {
            return Matrix(scratch.make(dtype, {12}).raw(), dtype, rows, cols, cols);
          };
          const Matrix x = zeros(GetParam(), M, K), w = zeros(GetParam(), N, K);
          const Matrix y = zeros(DType::kF32, M, N), dw = zeros(DType::kF32, N, K);
          std::memcpy(y.data, numbers.raw(), numbers.bytes());
          std::memcpy(dw.data, numbers.raw(), numbers.bytes());
          matmul({y, x, packed_rows(w, GetParam()).packed});
          for (int64_t i = 0; i < M * N; ++i) EXPECT_EQ(static_cast<float*>(y.data)[i], 0);
          WeightGradient gradient{dw, zeros(GetParam(), M, N), x, true};
          matmul_wgrad(std::span(&gradient, 1), GetParam(), scratch);
          EXPECT_EQ(std::memcmp(dw.data, numbers.raw(), numbers.bytes()), 0);
          gradient.accumulate = false;
          matmul_wgrad(std::span(&gradient, 1), GetParam(), scratch);
          for (int64_t i = 0; i < N * K; ++i) EXPECT_EQ(static_cast<float*>(dw.data)[i], 0);
        }
      }
    }
  });
}

// Element (n, k) of a packed operand, as the header of the kernels tells the layout.
float element(const Packed& x, int64_t n, int64_t k) {
  const int64_t per_unit = x.format == DType::kBF16 ? 2 : 1;
  const int64_t units = (x.k + per_unit - 1) / per_unit;
  const std::byte* unit = x.data + ((n / 32 * units + k / per_unit) * 32 + n % 32) * 4;
  if (x.format == DType::kF32) return *reinterpret_cast<const float*>(unit);
  return static_cast<float>(reinterpret_cast<const bf16*>(unit)[k % 2]);
}

TEST_P(Matmul, PackingIsTheSameFromRowsAndColumnsOnEverySet) {
  for (const DType source : {DType::kF32, DType::kBF16}) {
    for (const int64_t n : {1, 31, 32, 33, 600}) {
      for (const int64_t k : {1, 2, 15, 16, 17, 33, 131}) {
        const OwnedTensor w = random(source, n, k, "w");
        OwnedTensor transposed(source, {k, n});
        for (int64_t r = 0; r < n; ++r) {
          for (int64_t c = 0; c < k; ++c) {
            const Matrix from = w;
            put(transposed, c, r,
                source == DType::kBF16 ? static_cast<float>(from.row<bf16>(r)[c])
                                       : from.row<float>(r)[c]);
          }
        }
        on_every_set([&] {
          const Operand rows = packed_rows(w, GetParam());
          Operand columns = packed_rows(w, GetParam());
          std::memset(columns.memory.raw(), 0xff, columns.memory.bytes());
          const PackJob job{columns.packed, transposed};
          pack_columns(std::span(&job, 1));
          EXPECT_EQ(bytes_of(columns.memory), bytes_of(rows.memory)) << n << " " << k;
          for (int64_t r = 0; r < (n + 31) / 32 * 32; ++r) {
            for (int64_t c = 0; c < (GetParam() == DType::kBF16 ? (k + 1) / 2 * 2 : k); ++c) {
              float want = 0;
              if (r < n && c < k) {
                const Matrix from = w;
                want = source == DType::kF32 ? from.row<float>(r)[c]
                                             : static_cast<float>(from.row<bf16>(r)[c]);
                if (GetParam() == DType::kBF16) want = static_cast<float>(bf16(want));
              }
              ASSERT_EQ(element(rows.packed, r, c), want) << r << " " << c;
            }
          }
        });
      }
    }
  }
}

TEST(MatmulScratch, ACountingArenaMeasures) {
  const OwnedTensor x(DType::kF32, {9, 50}), dy(DType::kF32, {9, 40}), dw(DType::kF32, {40, 50});
  Arena counting{Arena::Counting()}, scratch(size_t{1} << 20);
  for (Arena* arena : {&counting, &scratch}) {
    const Arena::Scope scope(*arena);
    const WeightGradient gradient{dw, dy, prepare(*arena, x, DType::kBF16)};
    matmul_wgrad(std::span(&gradient, 1), DType::kBF16, *arena);
  }
  EXPECT_EQ(counting.peak(), scratch.peak());
  EXPECT_EQ(prepare(counting, x, DType::kF32).data, x.raw());
}

}  // namespace
}  // namespace minke::ops
