#include "ops/matmul.h"

#include <algorithm>
#include <vector>

#include "base/profile.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/kernels/matmul_pack.h"
#include "ops/kernels/quantize.h"
#include "ops/matmul_operation.h"
#include "ops/quantize.h"
#include "ops/quantize_counts.h"

namespace minke::ops {
namespace {

using kernels::kBlockRows;
using kernels::kPanel;
using kernels::kUnitBytes;

Operation operation(const Product& p) {
  check_packed(p.right);
  if (is_codes(p.right.format)) {
    format_index(p.left.dtype);
    MINKE_CHECK(p.right.scales.data != nullptr && p.left_scales.tile == 1);
    MINKE_CHECK(p.right.segment % 2 == 0, "a segment of {}", p.right.segment);
  } else if (is_integers(p.right.format)) {
    MINKE_CHECK(p.left.dtype == DType::kI8, "left is {}", name_of(p.left.dtype));
  } else {
    MINKE_CHECK(p.left.dtype == p.right.format, "left is {}, right {}", name_of(p.left.dtype),
                name_of(p.right.format));
  }
  const int64_t k = p.right.k;
  const int64_t cols = is_integers(p.right.format) ? int_row_bytes(k) : k;
  MINKE_CHECK((p.tiles ? left_columns(p.left.cols, p.tiles->segment) : p.left.cols) == cols &&
                  p.out.rows == p.left.rows && p.out.cols == p.right.n,
              "[{}, {}] . [{}, {}]^T into [{}, {}]", p.left.rows, p.left.cols, p.right.n, p.right.k,
              p.out.rows, p.out.cols);
  MINKE_CHECK(!p.accumulate || p.out.dtype == DType::kF32);
  if (p.tiles) {
    MINKE_CHECK(is_codes(p.right.format) && p.left_scales.data == nullptr);
    const int64_t row = k * static_cast<int64_t>(sizeof(bf16));
    const int64_t blocks = quantized_blocks(p.left.cols, p.tiles->segment);
    return {p.out,
            k,
            nullptr,
            kBlockRows,
            0,
            row,
            kUnitBytes,
            p.right,
            p.accumulate,
            DType::kBF16,
            {nullptr, 1, blocks, 1, p.left_scales.promote},
            p.left,
            *p.tiles};
  }
  const int64_t stride = p.left.stride * static_cast<int64_t>(size_of(p.left.dtype));
  return {p.out,
          k,
          static_cast<const std::byte*>(p.left.data),
          kBlockRows,
          kBlockRows * stride,
          stride,
          kUnitBytes,
          p.right,
          p.accumulate,
          p.left.dtype,
          p.left_scales};
}

}  // namespace

size_t packed_bytes(DType format, int64_t n, int64_t k) {
  check_operand_format(format);
  MINKE_CHECK(n >= 0 && k >= 0);
  return static_cast<size_t>(ceil_div(n, kPanel) * panel_bytes(format, k));
}

void pack_rows_part(const PackJob& job, int64_t row) {
  const auto& [to, from, scales] = job;
  if (is_integers(to.format)) {
    for (int64_t r = row; r < std::min(row + kPackRows, from.rows); r += kPanel) {
      int_table()->pack[int_index(to.format)](
          to.data + r / kPanel * panel_bytes(to),
          {part(from, r, kPanel, 0, from.cols), part(scales, r, kPanel, 0, scales.cols), to.k});
    }
    return;
  }
  const auto pack = is_codes(to.format)
                        ? MINKE_KERNELS(kernels::Fp8PackKernels, fp8_pack_kernels)->rows
                        : MINKE_KERNELS(kernels::PackKernels, pack_kernels)
                              ->rows[format_index(to.format)][format_index(from.dtype)];
  for (int64_t r = row; r < std::min(row + kPackRows, from.rows); r += kPanel) {
    pack(to.data + r / kPanel * panel_bytes(to), part(from, r, kPanel, 0, from.cols));
  }
}

void pack_columns_part(const PackJob& job, int64_t row) {
  const auto& [to, from, scales] = job;
  const auto pack = is_codes(to.format)
                        ? MINKE_KERNELS(kernels::Fp8PackKernels, fp8_pack_kernels)->columns
                        : MINKE_KERNELS(kernels::PackKernels, pack_kernels)
                              ->columns[format_index(to.format)][format_index(from.dtype)];
  const int64_t unit = row / numbers_per_unit(to.format);
  for (int64_t p = 0; p < ceil_div(to.n, kPanel); ++p) {
    pack(to.data + p * panel_bytes(to) + unit * unit_bytes(to.format),
         part(from, row, kPackRows, p * kPanel, kPanel));
  }
}

void check(const PackJob& job, bool by_columns) {
  check_packed(job.to);
  if (is_integers(job.to.format)) {
    const Shape matrix{job.to.n, job.to.k}, codes = int_codes_shape(matrix, job.to.format),
                                            scales = int_scale_shape(matrix, job.to.format);
    MINKE_CHECK(!by_columns && job.from.dtype == job.to.format && job.from.rows == codes[0] &&
                job.from.cols == codes[1] && job.scales.dtype == DType::kBF16 &&
                job.scales.rows == scales[0] && job.scales.cols == scales[1]);
    return;
  }
  MINKE_CHECK(is_codes(job.to.format) == is_codes(job.from.dtype));
  MINKE_CHECK(job.from.rows == (by_columns ? job.to.k : job.to.n) &&
              job.from.cols == (by_columns ? job.to.n : job.to.k));
}

void pack_rows(std::span<const PackJob> jobs) {
  const Profiled profiled("pack_rows");
  Chunks chunks;
  for (const PackJob& job : jobs) {
    check(job, false);
    chunks.add(ceil_div(job.from.rows, kPackRows));
  }
  chunks.run([&](size_t i, int64_t chunk) { pack_rows_part(jobs[i], chunk * kPackRows); });
}

void pack_columns(std::span<const PackJob> jobs) {
  const Profiled profiled("pack_columns");
  Chunks chunks;
  for (const PackJob& job : jobs) {
    check(job, true);
    chunks.add(ceil_div(job.from.rows, kPackRows));
  }
  chunks.run([&](size_t i, int64_t chunk) { pack_columns_part(jobs[i], chunk * kPackRows); });
}

Matrix prepare(Arena& scratch, const Matrix& x, DType format) {
  if (x.dtype == format) return x;
  if (is_integers(format)) return quantize_to_integers(scratch, x);
  const Matrix copy = scratch.make(format, {x.rows, x.cols});
  if (!scratch.counting()) convert(copy, x);
  return copy;
}

int64_t int_row_bytes(int64_t k) { return kernels::int_row_bytes(k); }

Matrix quantize_to_integers(Arena& scratch, const Matrix& x) {
  const Profiled profiled("quantize_to_integers");
  const Matrix out = scratch.make(DType::kI8, {x.rows, int_row_bytes(x.cols)});
  if (scratch.counting()) return out;
  const auto quantize = int_table()->quantize[format_index(x.dtype)];
  parallel_for(x.rows, rows_per_chunk(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      auto* row = static_cast<std::byte*>(out.row_range(r, 1).data);
      if (!quantize(row, x.row_range(r, 1).data, x.cols)) {
        fail("quantisation to integers: found infinity or NaN, expected finite numbers");
      }
    }
  });
  return out;
}

void matmul(std::span<const Product> products) {
  const Profiled profiled("matmul");
  std::vector<Operation> operations;
  operations.reserve(products.size());
  const void* counted = nullptr;  // matrices that are stacked read the same left side
  for (const Product& product : products) {
    operations.push_back(operation(product));
    if (!product.tiles || product.left.data == counted || !counts_quantizing()) continue;
    counted = product.left.data;
    count_quantizing_left(product.left, *product.tiles);
  }
  run(operations);
}

void matmul_wgrad(std::span<const WeightGradient> products, DType format, Arena& scratch) {
  const Profiled profiled("matmul_wgrad");
  const Arena::Scope scope(scratch);
  const auto packed = [&](const Matrix& x) {
    const size_t bytes = packed_bytes(format, x.cols, x.rows);
    const Tensor memory = scratch.make(DType::kU8, {static_cast<int64_t>(bytes)});
    return Packed{static_cast<std::byte*>(memory.raw()), format, x.cols, x.rows};
  };
  std::vector<PackJob> jobs;
  std::vector<Operation> operations;
  jobs.reserve(2 * products.size());
  operations.reserve(products.size());
  for (const WeightGradient& p : products) {
    MINKE_CHECK(p.dw.dtype == DType::kF32 && p.dw.rows == p.dy.cols && p.dw.cols == p.x.cols &&
                    p.dy.rows == p.x.rows,
                "[{}, {}]^T . [{}, {}] into [{}, {}]", p.dy.rows, p.dy.cols, p.x.rows, p.x.cols,
                p.dw.rows, p.dw.cols);
    if (p.dy.rows == 0 && p.accumulate) continue;
    const Packed dy = packed(p.dy), x = packed(p.x);
    jobs.push_back({dy, p.dy});
    jobs.push_back({x, p.x});
    operations.push_back({p.dw, p.dy.rows, dy.data, kPanel, panel_bytes(dy), kUnitBytes,
                          kPanel * kUnitBytes, x, p.accumulate});
  }
  if (scratch.counting()) return;
  pack_columns(jobs);
  run(operations);
}

namespace {

// Both sides of one gradient in E4M3, where it is computed: as numbers in BF16, which are read too
// often to be widened each time.
struct QuantizedSides {
  Matrix dy, x;
  Tensor x_scale;  // of codes in 1x128, where x is codes
  std::byte *left, *right;
  Tensor left_scale, right_scale;  // [blocks of tokens, columns]
  Matrix source;                   // of x, where that is codes; else x
};

void quantize_columns(const QuantizedSides& s, int64_t block, bool power_of_two) {
  const auto kernels = MINKE_KERNELS(kernels::QuantizeColumnsKernels, quantize_columns_kernels);
  const int64_t M = s.dy.rows, row = block * kScaleBlock;
  const auto side = [&](const Matrix& x, std::byte* to, const Tensor& scale) {
    const auto run = kernels->columns[x.dtype == DType::kE4M3 ? 2 : format_index(x.dtype)];
    for (int64_t c = 0; c < x.cols; c += kPanel) {
      kernels::QuantizeColumns what{};
      what.x = part(x, row, kScaleBlock, c, kPanel);
      if (x.dtype == DType::kE4M3) {
        what.row_scale = s.x_scale.rows(row, 1).data<float>() + c / kScaleBlock;
        what.row_scale_stride = s.x_scale.dim(1);
      }
      what.panel =
          to + c / kPanel * panel_bytes(DType::kBF16, M) + row / 2 * unit_bytes(DType::kBF16);
      what.scale = scale.rows(block, 1).data<float>() + c;
      what.power_of_two = power_of_two;
      run(what);
    }
  };
  side(s.dy, s.left, s.left_scale);
  side(s.x, s.right, s.right_scale);
}

// What became of x in tiles of 128x1.
void count_columns(const Matrix& x, const std::byte* panels, const Tensor& scale,
                   const char* kind) {
  for (int64_t row = 0; row < x.rows; row += kScaleBlock) {
    const Matrix rows = x.row_range(row, std::min(kScaleBlock, x.rows - row));
    const OwnedTensor numbers(DType::kBF16, {rows.rows, x.cols});
    for (int64_t i = 0; i < numbers.count(); ++i) {
      const int64_t r = row + i / x.cols, c = i % x.cols;
      const std::byte* unit = panels + c / kPanel * panel_bytes(DType::kBF16, x.rows) +
                              r / 2 * unit_bytes(DType::kBF16) + c % kPanel * kUnitBytes;
      numbers.data<bf16>()[i] = reinterpret_cast<const bf16*>(unit)[r % 2];
    }
    count_quantized(rows, numbers, scale.rows(row / kScaleBlock, 1).data<float>(), 0, x.cols, kind);
  }
}

}  // namespace

void matmul_wgrad_fp8(std::span<const WeightGradient> products, const Fp8Recipe& recipe,
                      Arena& scratch) {
  const Profiled profiled("matmul_wgrad");
  const Arena::Scope scope(scratch);
  const auto numbers = [&](int64_t n, int64_t k) {
    const auto size = static_cast<int64_t>(packed_bytes(DType::kBF16, n, k));
    return static_cast<std::byte*>(scratch.make(DType::kU8, {size}).raw());
  };
  std::vector<QuantizedSides> sides;
  std::vector<Operation> operations;
  Chunks chunks;
  for (const WeightGradient& p : products) {
    const int64_t M = p.dy.rows, N = p.dy.cols, K = p.x.cols, blocks = ceil_div(M, kScaleBlock);
    MINKE_CHECK(p.dw.dtype == DType::kF32 && p.dw.rows == N && p.dw.cols == K && p.x.rows == M,
                "[{}, {}]^T . [{}, {}] into [{}, {}]", M, N, p.x.rows, K, p.dw.rows, p.dw.cols);
    if (M == 0 && p.accumulate) continue;
    QuantizedSides s{p.dy,
                     p.x,
                     {},
                     numbers(N, M),
                     numbers(K, M),
                     scratch.make(DType::kF32, {blocks, N}),
                     scratch.make(DType::kF32, {blocks, K}),
                     p.x};
    if (recipe.requantized) {
      s.x = scratch.make(DType::kE4M3, {M, K});
      s.x_scale = scratch.make(DType::kF32, {M, quantized_blocks(K, 0)});
      if (!scratch.counting()) quantize_rows(s.x, s.x_scale, p.x, 0, recipe.scales);
    }
    sides.push_back(s);
    chunks.add(blocks);
    const Packed right{
        s.right, DType::kBF16, K, M, {static_cast<float*>(s.right_scale.raw()), 1, 1, K}};
    operations.push_back({p.dw,
                          M,
                          s.left,
                          kPanel,
                          panel_bytes(DType::kBF16, M),
                          kUnitBytes,
                          kPanel * kUnitBytes,
                          right,
                          p.accumulate,
                          DType::kBF16,
                          {static_cast<float*>(s.left_scale.raw()), 1, 1, N, recipe.promote}});
  }
  if (scratch.counting()) return;
  {
    const Profiled quantizing("quantize_columns");
    chunks.run([&](size_t i, int64_t block) {
      quantize_columns(sides[i], block, recipe.scales == ScaleFormat::kPowerOfTwo);
    });
  }
  if (counts_quantizing()) {
    for (const QuantizedSides& s : sides) {
      count_columns(s.dy, s.left, s.left_scale, "gradients_128x1");
      count_columns(s.source, s.right, s.right_scale, "activations_128x1");
    }
  }
  run(operations);
}

}  // namespace minke::ops
