#include "ops/quantize.h"

#include <vector>

#include "base/profile.h"
#include "ops/chunks.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
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

void count(const kernels::QuantizeRows& rows) {
  count_quantized(rows.x, rows.codes.data != nullptr ? rows.codes : rows.numbers, rows.scale,
                  rows.scale_stride, ceil_div(rows.x.cols, kScaleBlock));
}

// What quantize_left does, segment by segment.
template <typename Body>
void for_each_segment(const Matrix& numbers, float* scale, const Matrix& x, const LeftTiles& tiles,
                      Body&& body) {
  const int64_t width = segment_of(x.cols, tiles.segment);
  const int64_t step = width == x.cols ? width : even(width);
  for (int64_t p = 0; p * width < x.cols; ++p) {
    kernels::QuantizeRows rows{};
    rows.x = x.columns(p * width, width);
    rows.numbers = numbers.columns(p * step, width);
    rows.scale = scale + p * ceil_div(width, kScaleBlock);
    rows.scale_stride = quantized_blocks(x.cols, tiles.segment);
    rows.power_of_two = tiles.format == ScaleFormat::kPowerOfTwo;
    body(rows);
  }
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
    what.power_of_two = format == ScaleFormat::kPowerOfTwo;
    const auto run = kernel_table()->rows[format_index(x.dtype)];
    parallel_for(x.rows, rows_per_chunk(width),
                 [&](int64_t begin, int64_t end) { run(what, begin, end); });
    if (counts_quantizing()) count(what);
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

int64_t left_columns(int64_t columns, int64_t segment) {
  const int64_t width = segment_of(columns, segment);
  return width == columns ? columns : columns / width * even(width);
}

QuantizedLeft quantize_left(Arena& scratch, const Matrix& x, const LeftTiles& tiles) {
  const Profiled profiled("quantize_left");
  const int64_t blocks = quantized_blocks(x.cols, tiles.segment);
  const Matrix numbers = scratch.make(DType::kBF16, {x.rows, left_columns(x.cols, tiles.segment)});
  const Tensor scale = scratch.make(DType::kF32, {x.rows, blocks});
  const QuantizedLeft out{numbers, {static_cast<float*>(scale.raw()), 1, blocks, 1}};
  if (scratch.counting()) return out;
  parallel_for(x.rows, rows_per_chunk(x.cols), [&](int64_t begin, int64_t end) {
    quantize_left(numbers.row_range(begin, end - begin), scale.data<float>() + begin * blocks,
                  x.row_range(begin, end - begin), tiles);
  });
  if (counts_quantizing()) {
    for_each_segment(numbers, scale.data<float>(), x, tiles, count);
  }
  return out;
}

void quantize_left(const Matrix& numbers, float* scale, const Matrix& x, const LeftTiles& tiles) {
  const auto run = kernel_table()->rows[format_index(x.dtype)];
  for_each_segment(numbers, scale, x, tiles,
                   [&](const kernels::QuantizeRows& rows) { run(rows, 0, x.rows); });
  const int64_t width = segment_of(x.cols, tiles.segment), step = width + 1;
  if (left_columns(x.cols, tiles.segment) == x.cols) return;
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = width; c < numbers.cols; c += step) numbers.row<bf16>(r)[c] = bf16(0.0F);
  }
}

void count_quantizing_left(const Matrix& x, const LeftTiles& tiles) {
  constexpr int64_t kRows = 1024;  // so many at a time: what they become is not kept
  const int64_t most = std::min(x.rows, kRows), width = left_columns(x.cols, tiles.segment);
  Arena memory(static_cast<size_t>(most * (width + 2 * quantized_blocks(x.cols, tiles.segment))) *
                   sizeof(bf16) +
               4096);
  for (int64_t r = 0; r < x.rows; r += kRows) {
    const Arena::Scope scope(memory);
    quantize_left(memory, x.row_range(r, std::min(kRows, x.rows - r)), tiles);
  }
}

int64_t e5m6_bytes(int64_t columns) {
  const int64_t whole = columns / kScaleBlock, rest = columns % kScaleBlock;
  return whole * (kScaleBlock + kScaleBlock / 2) + rest + ceil_div(rest, 2);
}

namespace {

// `before` was rounded to x, which lacks its scales as numbers of codes.
void count_e5m6(const Tensor& before, const Matrix& x, const Tensor& scale) {
  const OwnedTensor numbers(DType::kBF16, before.shape());
  const int64_t blocks = scale.dim(1);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      const float by = scale.data<float>()[r * blocks + c / kScaleBlock];
      numbers.data<bf16>()[r * x.cols + c] = bf16(static_cast<float>(x.row<bf16>(r)[c]) / by);
    }
  }
  count_quantized(before, numbers, scale.data<float>(), blocks, blocks, "attention_output",
                  kMaxE5M6);
}

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
  OwnedTensor before;
  if (counts_quantizing()) {
    before = OwnedTensor(DType::kBF16, {x.rows, x.cols});
    convert(before, x);
  }
  run_e5m6(x, codes, scale, MINKE_KERNELS(kernels::E5m6Kernels, e5m6_kernels)->quantize);
  if (!before.empty()) count_e5m6(before, x, scale);
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
