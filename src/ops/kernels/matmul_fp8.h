// Kernels of products whose right operand is E4M3 with scales, and the layout of that operand.
//
// A unit is a pair of codes along the sum, the earlier one first; beyond an odd end there is zero.
// A panel is kPanel columns. Unit u of it is kFp8UnitBytes long, so that one AVX-512 load takes it;
// the pair of column c is number c % 16 / 4 * 8 + c / 16 * 4 + c % 4 of it: where unpacking bytes
// puts columns in their order. Columns beyond the last are zero.
//
// Every kScaleBlock numbers of the sum are added up by themselves (in ascending order, as in
// ops/kernels/matmul.h), multiplied by the left side's scale, then the right side's, and added to
// an FP32 total (V3 report, section 3.3.2). So a result depends on neither the tile nor the other
// rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

inline constexpr int64_t kFp8UnitBytes = 64;
inline constexpr int64_t kScaleBlock = 128;

// A part of a product: at most kBlockRows rows by any number of panels, over all of k.
struct Fp8Block {
  const std::byte* left;  // FP32 or BF16; laid out as MatmulBlock's
  int64_t group_rows, group_stride, row_stride, unit_stride;
  // The scale of row r at block b of the sum: left_scale[r * row + b * block]; null: 1.
  const float* left_scale;
  int64_t left_scale_row, left_scale_block;
  const std::byte* right;  // packed panels of codes; or of the numbers of codes in BF16, as
  bool right_is_codes;     // ops/kernels/matmul.h has them (then the left side is BF16, too). By
                           // codes, rows are within one group
  // The scale of column `first_column` + c at block b of the sum:
  // right_scale[(first_column + c) / right_tile * tile + b * block]. A panel begins there.
  const float* right_scale;
  int64_t first_column, right_tile, right_scale_tile, right_scale_block;
  int64_t rows, cols, k;
  int64_t segment;  // even, or k: blocks of the sum begin anew at its multiples
  void* out;
  int64_t out_stride;  // numbers from one row to the next
  bool accumulate;     // FP32 only
};

struct Fp8Kernels {
  // By the left side's format and the output's.
  void (*block[2][2])(const Fp8Block& block);
};
MINKE_DECLARE_KERNELS(Fp8Kernels, fp8_kernels)

// Codes [at most kPanel, k] or [k, at most kPanel] become a panel. Rows of the latter are one part
// of the sum where more follow: then their number is even.
struct Fp8PackKernels {
  void (*rows)(std::byte* panel, const Matrix& codes);
  void (*columns)(std::byte* panel, const Matrix& codes);
};
MINKE_DECLARE_KERNELS(Fp8PackKernels, fp8_pack_kernels)

}  // namespace minke::ops::kernels
