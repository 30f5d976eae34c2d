#include "ops/swiglu_fp8.h"

#include <vector>

#include "base/profile.h"
#include "base/thread_pool.h"
#include "ops/chunks.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/kernels/elementwise.h"
#include "ops/kernels/quantize.h"
#include "ops/quantize.h"
#include "ops/quantize_counts.h"

namespace minke::ops {
namespace {

auto quantize_table() { return MINKE_KERNELS(kernels::QuantizeKernels, quantize_kernels); }

void check(const KeptGateUp& kept, const Matrix& gate_up) {
  MINKE_CHECK(same_shape(kept.codes, gate_up) && kept.codes.dtype == DType::kE4M3 &&
              gate_up.cols % 2 == 0);
  MINKE_CHECK(kept.scale.rows == gate_up.rows && kept.scale.dtype == DType::kF32 &&
              kept.scale.cols == quantized_blocks(gate_up.cols, gate_up.cols / 2));
}

Tensor rows_of(const Tensor& x, int64_t begin, int64_t rows) {
  return x.empty() ? x : x.rows(begin, rows);
}

}  // namespace

void swiglu_keeping(const Matrix& h_TF, const KeptGateUp& kept, const Matrix& gate_up,
                    const Tensor& weight_T, ScaleFormat format) {
  const Profiled profiled("swiglu_keeping");
  check(kept, gate_up);
  const int64_t F = gate_up.cols / 2, blocks = ceil_div(F, kScaleBlock);
  kernels::QuantizeRows halves[2] = {};
  for (int64_t i = 0; i < 2; ++i) {
    halves[i].x = gate_up.columns(i * F, F);
    halves[i].codes = kept.codes.columns(i * F, F);
    halves[i].scale = static_cast<float*>(kept.scale.data) + i * blocks;
    halves[i].scale_stride = kept.scale.stride;
    halves[i].power_of_two = format == ScaleFormat::kPowerOfTwo;
  }
  const auto quantize = quantize_table()->rows[format_index(gate_up.dtype)];
  parallel_for(gate_up.rows, rows_per_chunk(2 * F), [&](int64_t begin, int64_t end) {
    for (const kernels::QuantizeRows& half : halves) quantize(half, begin, end);
    const int64_t rows = end - begin;
    swiglu(h_TF.row_range(begin, rows), gate_up.row_range(begin, rows),
           rows_of(weight_T, begin, rows));
  });
  if (!counts_quantizing()) return;
  for (const kernels::QuantizeRows& half : halves) {
    count_quantized(half.x, half.codes, half.scale, half.scale_stride, blocks);
  }
}

void swiglu_backward_kept(const Matrix& d_gate_up, const Tensor& dweight_T, const Matrix& h_TF,
                          const Matrix& dh_TF, const KeptGateUp& kept, const Tensor& weight_T) {
  const Profiled profiled("swiglu_backward_kept");
  check(kept, d_gate_up);
  const int64_t F = d_gate_up.cols / 2, blocks = ceil_div(F, kScaleBlock);
  const auto dequantize = quantize_table()->dequantize[format_index(DType::kBF16)];
  parallel_for(d_gate_up.rows, rows_per_chunk(2 * F), [&](int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    thread_local std::vector<bf16> memory;
    memory.resize(static_cast<size_t>(rows * 2 * F));
    const Matrix gate_up(memory.data(), DType::kBF16, rows, 2 * F, 2 * F);
    const Matrix codes = kept.codes.row_range(begin, rows);
    const float* scale = static_cast<const float*>(kept.scale.data) + begin * kept.scale.stride;
    for (int64_t i = 0; i < 2; ++i) {
      dequantize(gate_up.columns(i * F, F), codes.columns(i * F, F), scale + i * blocks,
                 kept.scale.stride, 0, rows);
    }
    swiglu_backward(d_gate_up.row_range(begin, rows), rows_of(dweight_T, begin, rows),
                    h_TF.row_range(begin, rows), dh_TF.row_range(begin, rows), gate_up,
                    rows_of(weight_T, begin, rows));
  });
}

}  // namespace minke::ops
