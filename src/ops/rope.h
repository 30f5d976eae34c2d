// Rotary position embedding of adjacent pairs (interleaved), amplitude included in the tables.
#pragma once

#include <span>

#include "ops/matrix.h"

namespace minke::ops {

// Rows hold `heads` heads of `width` numbers; in each, [offset, offset + rope) is rotated by the
// angles of the row's position and the rest is left alone. dst may be src; dst and src share dtype
// (FP32 or BF16). cos, sin [positions, rope / 2] FP32. inverse: the transposed rotation (the
// backward of a forward).
struct Rope {
  int64_t heads = 1, width = 0, offset = 0;
  Tensor cos, sin;
  std::span<const int32_t> positions;  // one a row
  bool inverse = false;
};
void rope(const Matrix& dst, const Matrix& src, const Rope& how);

}  // namespace minke::ops
