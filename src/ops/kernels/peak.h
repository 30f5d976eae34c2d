// What a core can do at the most: arithmetic that waits for nothing, and memory read in order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/isa.h"

namespace minke::ops::kernels {

struct PeakKernels {
  // Multiply-adds in registers, as many rounds; returns the FLOPs done. BF16: what a product of
  // BF16 operands is made of on this set, without the loads.
  double (*multiply_f32)(int64_t rounds);
  double (*multiply_bf16)(int64_t rounds);
  // Reads n bytes, a multiple of 256, and returns what depends on all of them.
  uint32_t (*read)(const std::byte* data, size_t n);
  // Reads and writes them: adds 1 to each word.
  void (*update)(std::byte* data, size_t n);
  // Reads n bytes and writes m others, in step; multiples of 256.
  void (*move)(std::byte* to, size_t m, const std::byte* from, size_t n);
};
MINKE_DECLARE_KERNELS(PeakKernels, peak_kernels)

}  // namespace minke::ops::kernels
