// Kernels of products of integers with scales (tensor/integers.h), and the layouts of both sides.
// The sum is cut into blocks of kIntSum numbers; what lies beyond k is zero on the left.
//
// A row of the left side is an IntTile for each kIntSum numbers.
// A panel is kPanel columns: for each block of the sum (128 numbers of kI8, 32 of kU8) their BF16
// scales, then units of four numbers along the sum. kI8: code + 128 of number i of column c is byte
// 4 c + i. kU8: code + 8 of column c, and of c + 16 in the upper half of the same byte.
//
// Products of a block are added up in int32, which is exact for every code, -128 among them. That
// sum is multiplied by the right side's scale; what the blocks of a tile of the left side give is
// added up in FP32, multiplied by its scale, and added to an FP32 total: so a result depends on
// neither the tile nor the other rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

inline constexpr int64_t kIntSum = 128, kIntSums = 32;

struct IntTile {
  float scale;
  // Of the right side's codes 128 (kI8), or 8 (kU8), is taken off: that many times the codes' sum,
  // of all and of each kIntSums, and with the other sign.
  int32_t offset_of_8, offset_of_4[kIntSum / kIntSums];
  int8_t codes[kIntSum];  // at least -127
};

// A part of a product: at most kBlockRows rows by any number of panels, over all of k.
struct IntBlock {
  const std::byte* left;
  int64_t left_stride;     // bytes
  const std::byte* right;  // panels
  int64_t rows, cols, k;
  void* out;
  int64_t out_stride;  // numbers from one row to the next
  bool accumulate;     // FP32 only
};

// Rows of codes [at most kPanel, k] (kI8, or kU8: two a byte), and their scales, to be packed.
struct IntRows {
  Matrix codes, scales;
  int64_t k;
};

struct IntKernels {
  // By the right side's format (kI8, kU8) and the output's (FP32, BF16).
  void (*block[2][2])(const IntBlock& block);
  void (*pack[2])(std::byte* panel, const IntRows& rows);
  // A row of k numbers (FP32, BF16) becomes a row of the left side. False where one is not finite.
  bool (*quantize[2])(std::byte* row, const void* x, int64_t k);
};
MINKE_DECLARE_KERNELS(IntKernels, int_kernels)

inline constexpr int64_t int_sums(int64_t k) { return (k + kIntSum - 1) / kIntSum; }
inline constexpr int64_t int_row_bytes(int64_t k) {
  return int_sums(k) * static_cast<int64_t>(sizeof(IntTile));
}
// Of a panel, one kIntSum of the sum.
inline constexpr int64_t int_panel_bytes(bool four_bits) {
  return four_bits ? 4 * (64 + 8 * 64) : 64 + 32 * 128;
}

}  // namespace minke::ops::kernels
