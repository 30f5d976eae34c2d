// Kernels that pack a product's operand; its layout is told in ops/kernels/matmul.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/isa.h"
#include "ops/matrix.h"

namespace minke::ops::kernels {

struct PackKernels {
  // By the format of the panel, and of what is packed.
  // The rows of `from` (at most kPanel) become the columns of one panel.
  void (*rows[2][2])(std::byte* panel, const Matrix& from);
  // The columns of `from` (at most kPanel) become the columns of one panel; its rows, the units.
  // Rows are one part of the sum where more follow: then their number is even.
  void (*columns[2][2])(std::byte* panel, const Matrix& from);
};
MINKE_DECLARE_KERNELS(PackKernels, pack_kernels)

}  // namespace minke::ops::kernels
