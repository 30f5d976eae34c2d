// Verification of FP8 arithmetic alone: a file of matrices, their codes and scales, and the three
// products of a linear layer, as an oracle computed them.
#pragma once

#include "base/file.h"
#include "study/verify.h"

namespace minke::study {

// The file of a folder that holds this and no model.
inline constexpr const char* kFp8File = "fp8.safetensors";

// The file's tensors: x [M, K], w [N, K], dy [M, N] and fprop, dgrad, wgrad (FP32, the products of
// the codes with plain scales); of x and dy `_1x128` and `_128x1`, of w `_128x128`, with plain
// scales and with `_pow2`: `.codes` (U8) and `.scale_inv` (FP32); x_e5m6 likewise (I32);
// e4m3.input, .codes and .table, e5m6.table. Codes and scales must be equal. Error: one that is
// missing or of another dtype or shape.
Verification verify_fp8(const fs::path& file);

}  // namespace minke::study
