#include "ops/quantize.h"

#include <vector>

#include "base/profile.h"
#include "ops/chunks.h"
#include "ops/dispatch.h"
#include "ops/kernels/e5m6.h"
#include "ops/kernels/matmul.h"
#include "ops/kernels/matmul_fp8.h"
#include "ops/kernels/quantize.h"
#include "ops/quantize_counts.h"

namespace minke::ops {
namespace {

using kernels::kFp8UnitBytes;
using kernels::kPanel;

auto kernel_table() { return MINKE_KERNELS(kernels::QuantizeKernels, quantize_kernels); }

int64_t segment_of(int64_t columns, int64_t segment) {
  const int64_t out = segment > 0 ? segment : columns;
  MINKE_CHECK(columns == 0 || columns % out == 0, "{} columns in segments of {}", columns, segment);
  return out;
}
int64_t even(int64_t n) { return (n + 1) / 2 * 2; }

void run_rows(const kernels::QuantizeRows& what, ScaleFormat format) {
  kernels::QuantizeRows how = what;
  how.power_of_two = format == ScaleFormat::kPowerOfTwo;
  const auto run = kernel_table()->rows[format_index(what.x.dtype)];
  parallel_for(what.x.rows, rows_per_chunk(what.x.cols),
               [&](int64_t begin, int64_t end) { run(how, begin, end); });
  if (!counts_quantizing()) return;
  count_quantized(how.x, how.codes.data != nullptr ? how.codes : how.numbers, how.scale,
                  how.scale_stride, ceil_div(how.x.cols, kScaleBlock));
}

}  // namespace

int64_t quantized_blocks(int64_t columns, int64_t segment) {
  if (columns == 0) return 0;
  const int64_t width = segment_of(columns, segment);
  return columns / width * ceil_div(width, kScaleBlock);
}

void quantize_rows(const Matrix& codes, const Matrix& scale, const Matrix& x, int64_t segment,
                   ScaleFormat format) {
  const Profiled profiled("quantize_rows");
  MINKE_CHECK(same_shape(codes, x) && codes.dtype == DType::kE4M3 && scale.rows == x.rows &&
              scale.dtype == DType::kF32 && scale.cols == quantized_blocks(x.cols, segment));
  const int64_t width = segment_of(x.cols, segment), blocks = ceil_div(width, kScaleBlock);
  for (int64_t c = 0; c < x.cols; c += width) {
    kernels::QuantizeRows what{};
    what.x = x.columns(c, width);
    what.codes = codes.columns(c, width);
    what.scale = static_cast<float*>(scale.data) + c / width * blocks;
    what.scale_stride = scale.stride;
    run_rows(what, format);
  }
}

void dequantize_rows(const Matrix& x, const Matrix& codes, const Matrix& scale, int64_t segment) {
  const Profiled profiled("dequantize_rows");
  MINKE_CHECK(same_shape(codes, x) && codes.dtype == DType::kE4M3 && scale.rows == x.rows &&
              scale.cols == quantized_blocks(x.cols, segment));
  const int64_t width = segment_of(x.cols, segment), blocks = ceil_div(width, kScaleBlock);
  const auto run = kernel_table()->dequantize[format_index(x.dtype)];
  for (int64_t c = 0; c < x.cols; c += width) {
    parallel_for(x.rows, rows_per_chunk(width), [&](int64_t begin, int64_t end) {
      run(x.columns(c, width), codes.columns(c, width),
          static_cast<const float*>(scale.data) + c / width * blocks, scale.stride, begin, end);
    });
  }
}

QuantizedLeft quantize_left(Arena& scratch, const Matrix& x, int64_t segment, ScaleFormat format) {
  const Profiled profiled("quantize_left");
  const int64_t width = segment_of(x.cols, segment), blocks = ceil_div(width, kScaleBlock);
  const int64_t parts = width == 0 ? 0 : x.cols / width, stride = parts * blocks;
  const Matrix numbers =
      scratch.make(DType::kBF16, {x.rows, parts == 1 ? width : parts * even(width)});
  const Tensor scale = scratch.make(DType::kF32, {x.rows, stride});
  const QuantizedLeft out{numbers, {static_cast<float*>(scale.raw()), 1, stride, 1}};
  if (scratch.counting()) return out;
  const int64_t step = parts == 1 ? width : even(width);
  for (int64_t p = 0; p < parts; ++p) {
    kernels::QuantizeRows what{};
    what.x = x.columns(p * width, width);
    what.numbers = numbers.columns(p * step, width);
    what.scale = scale.data<float>() + p * blocks;
    what.scale_stride = stride;
    run_rows(what, format);
    if (step == width) continue;
    for (int64_t r = 0; r < x.rows; ++r) numbers.row<bf16>(r)[p * step + width] = bf16(0.0F);
  }
  return out;
}

int64_t e5m6_bytes(int64_t columns) {
  const int64_t whole = columns / kScaleBlock, rest = columns % kScaleBlock;
  return whole * (kScaleBlock + kScaleBlock / 2) + rest + ceil_div(rest, 2);
}

namespace {

template <typename Run>
void run_e5m6(const Matrix& x, const Tensor& codes, const Tensor& scale, Run run) {
  MINKE_CHECK(x.dtype == DType::kBF16 && codes.shape() == Shape({x.rows, e5m6_bytes(x.cols)}) &&
              scale.shape() == Shape({x.rows, quantized_blocks(x.cols, 0)}));
  const kernels::E5m6Rows rows{x, codes.data<uint8_t>(), codes.dim(1), scale.data<float>(),
                               scale.dim(1)};
  parallel_for(x.rows, rows_per_chunk(x.cols),
               [&](int64_t begin, int64_t end) { run(rows, begin, end); });
}

}  // namespace

void quantize_e5m6(const Matrix& x, const Tensor& codes, const Tensor& scale) {
  const Profiled profiled("quantize_e5m6");
  run_e5m6(x, codes, scale, MINKE_KERNELS(kernels::E5m6Kernels, e5m6_kernels)->quantize);
}

void dequantize_e5m6(const Matrix& x, const Tensor& codes, const Tensor& scale) {
  const Profiled profiled("dequantize_e5m6");
  run_e5m6(x, codes, scale, MINKE_KERNELS(kernels::E5m6Kernels, e5m6_kernels)->dequantize);
}

void check(const QuantizeJob& job) {
  const auto& [to, from] = job;
  MINKE_CHECK(to.by_rows.format == DType::kE4M3 && to.by_rows.n == from.rows &&
              to.by_rows.k == from.cols && to.scale != nullptr);
  MINKE_CHECK(to.by_columns.data == nullptr ||
              (to.by_columns.format == DType::kE4M3 && to.by_columns.n == from.cols &&
               to.first % 2 == 0 && to.first + from.rows <= to.by_columns.k));
  if (from.dtype != DType::kE4M3) format_index(from.dtype);
}

void quantize_weight_part(const QuantizeJob& job, int64_t row) {
  static_assert(kPackRows == kScaleBlock);
  const auto& [to, from] = job;
  const int64_t rows = std::min(kPackRows, from.rows - row), K = from.cols;
  Matrix codes = from.row_range(row, rows);
  thread_local std::vector<uint8_t> memory;
  if (from.dtype != DType::kE4M3) {
    memory.resize(static_cast<size_t>(rows * K));
    codes = {memory.data(), DType::kE4M3, rows, K, K};
    const auto block = kernel_table()->block[format_index(from.dtype)];
    float* scale = to.scale + row / kScaleBlock * ceil_div(K, kScaleBlock);
    for (int64_t c = 0; c < K; c += kScaleBlock) {
      const int64_t width = std::min(kScaleBlock, K - c);
      block(codes.columns(c, width), scale++, from.row_range(row, rows).columns(c, width),
            to.format == ScaleFormat::kPowerOfTwo);
    }
    if (counts_quantizing()) {
      const int64_t blocks = ceil_div(K, kScaleBlock);
      count_quantized(from.row_range(row, rows), codes, to.scale + row / kScaleBlock * blocks, 0,
                      blocks, "weights");
    }
  }
  const auto kernels = MINKE_KERNELS(kernels::Fp8PackKernels, fp8_pack_kernels);
  const int64_t panel_bytes = ceil_div(K, 2) * kFp8UnitBytes;
  for (int64_t r = 0; r < rows; r += kPanel) {
    kernels->rows(to.by_rows.data + (row + r) / kPanel * panel_bytes,
                  codes.row_range(r, std::min(kPanel, rows - r)));
  }
  if (to.by_columns.data == nullptr) return;
  const int64_t column_bytes = ceil_div(to.by_columns.k, 2) * kFp8UnitBytes;
  for (int64_t c = 0; c < K; c += kPanel) {
    kernels->columns(
        to.by_columns.data + c / kPanel * column_bytes + (to.first + row) / 2 * kFp8UnitBytes,
        codes.columns(c, std::min(kPanel, K - c)));
  }
}

void quantize_weights(std::span<const QuantizeJob> jobs) {
  const Profiled profiled("quantize_weights");
  Chunks chunks;
  for (const QuantizeJob& job : jobs) {
    check(job);
    chunks.add(ceil_div(job.from.rows, kPackRows));
  }
  chunks.run([&](size_t i, int64_t chunk) { quantize_weight_part(jobs[i], chunk * kPackRows); });
}

}  // namespace minke::ops
