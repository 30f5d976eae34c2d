// Products as they are run: operands in memory, cut into parts or runs of panels for threads to
// take. For ops/matmul*.cpp alone.
#pragma once

#include <span>

#include "ops/chunks.h"
#include "ops/dispatch.h"
#include "ops/kernels/matmul.h"
#include "ops/kernels/matmul_fp8.h"
#include "ops/kernels/matmul_int.h"
#include "ops/matmul.h"
#include "tensor/integers.h"

namespace minke::ops {

inline bool is_codes(DType format) { return format == DType::kE4M3; }
inline int64_t numbers_per_unit(DType format) { return format == DType::kF32 ? 1 : 2; }
// Of one panel, a unit of the sum.
inline int64_t unit_bytes(DType format) {
  return is_codes(format) ? kernels::kFp8UnitBytes : kernels::kPanel * kernels::kUnitBytes;
}
inline int64_t panel_bytes(DType format, int64_t k) {
  if (is_integers(format)) {
    return kernels::int_sums(k) * kernels::int_panel_bytes(format == DType::kU8);
  }
  return ceil_div(k, numbers_per_unit(format)) * unit_bytes(format);
}
inline int64_t panel_bytes(const Packed& x) { return panel_bytes(x.format, x.k); }
void check_operand_format(DType format);
void check_packed(const Packed& x);

inline auto int_table() { return MINKE_KERNELS(kernels::IntKernels, int_kernels); }
inline int int_index(DType format) { return format == DType::kU8 ? 1 : 0; }

inline Matrix part(const Matrix& x, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  return x.row_range(row, std::min(rows, x.rows - row))
      .columns(column, std::min(columns, x.cols - column));
}

// A product whose left side may be packed too.
struct Operation {
  Matrix out;
  int64_t k = 0;
  const std::byte* left = nullptr;
  int64_t group_rows = 0, group_stride = 0, row_stride = 0, unit_stride = 0;  // as MatmulBlock's
  Packed right;  // which has scales where it is codes, or the numbers of codes in BF16
  bool accumulate = false;
  DType left_format = DType::kF32;  // where the right side has scales
  Scales left_scales = {};
  Matrix source = {};  // which left and its scales are quantised from, a block of rows at a time
  LeftTiles tiles = {};
};
void run(std::span<const Operation> operations);

}  // namespace minke::ops
