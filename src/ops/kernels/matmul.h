// Kernels of products, and the layout of a packed operand.
//
// A unit is what 4 bytes along the sum hold: one FP32, or a pair of BF16 neighbours (the earlier
// one in the lower half; a pair beyond an odd end has zero there). A panel is kPanel columns: unit
// u of column c lies at (u * kPanel + c) * kUnitBytes, columns beyond the last are zero.
//
// Every number of a result is one running sum in FP32 over k in ascending order, whatever the
// tile, the block or the other rows. AVX-512 takes a pair of BF16 in one VDPBF16PS, which treats
// subnormal operands and results as zero and rounds to nearest even whatever MXCSR says; the other
// sets widen BF16 to FP32 exactly and keep subnormals.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

inline constexpr int64_t kPanel = 32;
inline constexpr int64_t kUnitBytes = 4;
// So many rows make a block. Of a block, so many panels are taken together, and so many units of
// the sum at a time: what is used again within them stays in a core's second cache.
inline constexpr int64_t kBlockRows = 128;
inline constexpr int64_t kBlockUnits = 1024;
inline constexpr int64_t kBlockPanels = 4;

// A part of a product: at most kBlockRows rows by any number of panels, over all of k.
struct MatmulBlock {
  // Unit u of row r: left + r / group_rows * group_stride + r % group_rows * row_stride +
  // u * unit_stride (bytes). So rows as they lie in memory, and packed panels, are both read. A
  // group has kPanel rows, or all.
  const std::byte* left;
  int64_t group_rows, group_stride, row_stride, unit_stride;
  const std::byte* right;  // packed panels
  int64_t rows, cols, k;
  void* out;
  int64_t out_stride;  // numbers from one row to the next
  bool accumulate;     // FP32 only
};

struct MatmulKernels {
  // By the operands' format and the output's.
  void (*block[2][2])(const MatmulBlock& block);
};
MINKE_DECLARE_KERNELS(MatmulKernels, matmul_kernels)

}  // namespace minke::ops::kernels
