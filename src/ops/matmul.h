// Products of matrices: the three of a linear layer y = x W^T (fprop, dgrad, wgrad), alone or for a
// group of experts. FP32 or BF16 operands, or E4M3 ones or integers with scales; sums are FP32 in
// every case (of integers, within a block of the sum: exact).
//
// A product reads operands, not formats. The right operand is packed once: panels of kPanel
// columns, for BF16 with pairs of neighbours along the sum side by side (VNNI order). The left
// operand is rows of the same format, as they lie in memory (`prepare` converts them where they are
// in another). E4M3 on the right goes with FP32 or BF16 on the left, and is multiplied in that
// format, which holds every code exactly.
//
// Every number of a result is summed over k in one fixed order that depends on neither the threads
// nor the other rows, so a row's result is the same bytes whatever it is computed with.
#pragma once

#include <optional>
#include <span>

#include "ops/matrix.h"
#include "tensor/scales.h"

namespace minke::ops {

// Scales of an operand whose numbers are code * scale: one FP32 for `tile` rows (of what is m or n
// in a product) by kScaleBlock of the sum. A view: scale (i, b) is data[i * stride + b *
// block_stride], and scales of a weight as files have them serve fprop (tile 128, stride
// ceil(k / 128), block_stride 1) and dgrad (tile 128, stride 1, block_stride ceil(n / 128)).
// Each block of the sum is added up by itself, multiplied by both sides' scales, and added to the
// total in FP32 (V3 report, section 3.3.2).
inline constexpr int64_t kScaleBlock = 128;
struct Scales {
  const float* data = nullptr;  // null: all are 1
  int64_t tile = 1, stride = 0, block_stride = 0;
  // Of a left side: how sums are added up; see Fp8Recipe.
  int64_t promote = -1;
};

// B[n, k] of a product C[m, n] = sum_k A[m, k] B[n, k], packed. A view: the memory (packed_bytes)
// is the caller's, aligned to 64.
struct Packed {
  std::byte* data = nullptr;
  DType format = DType::kF32;  // kF32, kBF16, kE4M3, kI8 or kU8 (tensor/integers.h)
  int64_t n = 0, k = 0;
  // Of kE4M3 alone. scales is never null; blocks of the sum begin anew at multiples of `segment`
  // (even; 0: there is one), as those of weights that are stacked along it do.
  Scales scales = {};
  int64_t segment = 0;
};

size_t packed_bytes(DType format, int64_t n, int64_t k);

// Packs B[n, k] = w[n, k] (w_NK: fprop of a weight) or B[n, k] = w[k, n] (w_KN: dgrad of a weight).
// w is FP32 or BF16; FP32 to BF16 rounds to nearest even. Codes of E4M3 are packed from codes. The
// spans run in parallel over all items.
// Integers are packed from rows alone, with their scales.
struct PackJob {
  Packed to;
  Matrix from;
  Matrix scales = {};  // BF16, of integers
};
void pack_rows(std::span<const PackJob> jobs);
void pack_columns(std::span<const PackJob> jobs);
// What rows [row, row + kPackRows) of w give of one item, in the calling thread. row is a multiple
// of kPackRows.
inline constexpr int64_t kPackRows = 128;
void check(const PackJob& job, bool by_columns);
void pack_rows_part(const PackJob& job, int64_t row);
void pack_columns_part(const PackJob& job, int64_t row);

// x itself where it has that format already, else a converted copy in `scratch`: for integers, what
// quantize_to_integers gives.
Matrix prepare(Arena& scratch, const Matrix& x, DType format);

// x (FP32, BF16) as the left side of integers: rows of codes of 8 bits with their scales, kI8 [M,
// int_row_bytes(K)], laid out for the kernels. Error where a number is not finite.
int64_t int_row_bytes(int64_t k);
Matrix quantize_to_integers(Arena& scratch, const Matrix& x);

// How a left side becomes E4M3: in tiles of 1x128, which begin anew at multiples of `segment` (0:
// there is one).
struct LeftTiles {
  int64_t segment = 0;
  ScaleFormat format = ScaleFormat::kF32;
};

// out (+)= left . right^T.   left [M, K] in right's format (FP32 or BF16 where that is E4M3; what
// quantize_to_integers gives where it is integers), out [M, N] FP32 or BF16 (accumulate: FP32
// only).
struct Product {
  Matrix out;
  Matrix left;
  Packed right;
  bool accumulate = false;
  Scales left_scales = {};  // of the left side's rows (tile 1), where right is E4M3
  // Where right is E4M3: left is quantised first, by the threads that multiply it, and
  // left_scales.data is null. The same numbers as of quantize_left in ops/quantize.h, without a
  // pass over memory.
  std::optional<LeftTiles> tiles = {};
};
// All products, their tiles shared out over the threads together. M = 0 is allowed (an idle
// expert).
void matmul(std::span<const Product> products);
inline void matmul(const Product& product) { matmul(std::span(&product, 1)); }

// dw_NK (+)= dy_MN^T . x_MK, summed over M (tokens) in order. dy and x are FP32 or BF16; both are
// packed along the tokens in `format` here, in scratch. dw is FP32. M = 0 leaves dw as it is
// (accumulate) or zeroes it.
struct WeightGradient {
  Matrix dw;
  Matrix dy;
  Matrix x;
  bool accumulate = true;
};
void matmul_wgrad(std::span<const WeightGradient> products, DType format, Arena& scratch);

}  // namespace minke::ops
