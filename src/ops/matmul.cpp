#include "ops/matmul.h"

#include <algorithm>
#include <vector>

#include "base/profile.h"
#include "ops/chunks.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/kernels/matmul.h"
#include "ops/kernels/matmul_fp8.h"
#include "ops/kernels/matmul_int.h"
#include "ops/kernels/matmul_pack.h"
#include "ops/kernels/quantize.h"
#include "ops/quantize.h"
#include "ops/tensor_core.h"
#include "tensor/integers.h"

namespace minke::ops {
namespace {

using kernels::Fp8Kernels;
using kernels::kBlockPanels;
using kernels::kBlockRows;
using kernels::kFp8UnitBytes;
using kernels::kPanel;
using kernels::kUnitBytes;
using kernels::MatmulBlock;

static_assert(kScaleBlock == kernels::kScaleBlock);

bool is_codes(DType format) { return format == DType::kE4M3; }
int64_t numbers_per_unit(DType format) { return format == DType::kF32 ? 1 : 2; }
// Of one panel, a unit of the sum.
int64_t unit_bytes(DType format) { return is_codes(format) ? kFp8UnitBytes : kPanel * kUnitBytes; }
int64_t panel_bytes(DType format, int64_t k) {
  if (is_integers(format)) {
    return kernels::int_sums(k) * kernels::int_panel_bytes(format == DType::kU8);
  }
  return ceil_div(k, numbers_per_unit(format)) * unit_bytes(format);
}
int64_t panel_bytes(const Packed& x) { return panel_bytes(x.format, x.k); }

Matrix part(const Matrix& x, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  return x.row_range(row, std::min(rows, x.rows - row))
      .columns(column, std::min(columns, x.cols - column));
}

void check_format(DType format) {
  if (!is_codes(format) && !is_integers(format)) format_index(format);
}

auto int_table() { return MINKE_KERNELS(kernels::IntKernels, int_kernels); }
int int_index(DType format) { return format == DType::kU8 ? 1 : 0; }

void check_packed(const Packed& x) {
  check_format(x.format);
  MINKE_CHECK(x.n >= 0 && x.k >= 0 && reinterpret_cast<uintptr_t>(x.data) % 64 == 0);
}

// A part of a product for one thread: rows by panels.
struct Part {
  size_t operation;
  int64_t row, rows, panel, panels;
};

// So few rows take as long as reading the panels does.
constexpr int64_t kLeastRows = 8;
// Multiply-adds, of which few rows take as long as kLeastRows.
int64_t work_of(int64_t m, int64_t n, int64_t k) {
  return m == 0 ? 0 : std::max(m, kLeastRows) * n * std::max<int64_t>(k, 1);
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
};

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
  const int64_t cols = is_integers(p.right.format) ? int_row_bytes(p.right.k) : p.right.k;
  MINKE_CHECK(p.left.cols == cols && p.out.rows == p.left.rows && p.out.cols == p.right.n,
              "[{}, {}] . [{}, {}]^T into [{}, {}]", p.left.rows, p.left.cols, p.right.n, p.right.k,
              p.out.rows, p.out.cols);
  MINKE_CHECK(!p.accumulate || p.out.dtype == DType::kF32);
  const int64_t stride = p.left.stride * static_cast<int64_t>(size_of(p.left.dtype));
  return {p.out,
          p.right.k,
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

// As run_block, where the right side has scales.
void run_fp8_block(const Operation& op, int64_t row, int64_t panel, const Matrix& out) {
  kernels::Fp8Block block{};
  block.left =
      op.left + row / op.group_rows * op.group_stride + row % op.group_rows * op.row_stride;
  block.group_rows = op.group_rows;
  block.group_stride = op.group_stride;
  block.row_stride = op.row_stride;
  block.unit_stride = op.unit_stride;
  if (op.left_scales.data != nullptr) {
    block.left_scale = op.left_scales.data + row * op.left_scales.stride;
  }
  block.left_scale_row = op.left_scales.stride;
  block.left_scale_block = op.left_scales.block_stride;
  block.right = op.right.data + panel * panel_bytes(op.right);
  block.right_is_codes = is_codes(op.right.format);
  block.right_scale = op.right.scales.data;
  block.first_column = panel * kPanel;
  block.right_tile = op.right.scales.tile;
  block.right_scale_tile = op.right.scales.stride;
  block.right_scale_block = op.right.scales.block_stride;
  block.rows = out.rows;
  block.cols = out.cols;
  block.k = op.k;
  block.segment = op.right.segment > 0 ? op.right.segment : op.k;
  block.out = out.data;
  block.out_stride = out.stride;
  block.accumulate = op.accumulate;
  if (op.left_scales.promote != Fp8Recipe::kFp32Sums) {
    return tensor_core_block(block, out.dtype, op.left_scales.promote);
  }
  MINKE_KERNELS(Fp8Kernels, fp8_kernels)
      ->block[format_index(op.left_format)][format_index(out.dtype)](block);
}

// As run_part, where the right side is integers.
void run_int_block(const Operation& op, int64_t row, int64_t panel, const Matrix& out) {
  const kernels::IntBlock block{op.left + row * op.row_stride,
                                op.row_stride,
                                op.right.data + panel * panel_bytes(op.right),
                                out.rows,
                                out.cols,
                                op.k,
                                out.data,
                                out.stride,
                                op.accumulate};
  int_table()->block[int_index(op.right.format)][format_index(out.dtype)](block);
}

void run_part(const Operation& op, const Part& p) {
  const int64_t row = p.row, panel = p.panel;
  const Matrix out = part(op.out, row, p.rows, panel * kPanel, p.panels * kPanel);
  if (op.right.scales.data != nullptr) return run_fp8_block(op, row, panel, out);
  if (is_integers(op.right.format)) return run_int_block(op, row, panel, out);
  MatmulBlock block{};
  // A block of rows begins a group, or is within the only one.
  block.left =
      op.left + row / op.group_rows * op.group_stride + row % op.group_rows * op.row_stride;
  block.group_rows = op.group_rows;
  block.group_stride = op.group_stride;
  block.row_stride = op.row_stride;
  block.unit_stride = op.unit_stride;
  block.right = op.right.data + panel * panel_bytes(op.right);
  block.rows = out.rows;
  block.cols = out.cols;
  block.k = op.k;
  block.out = out.data;
  block.out_stride = out.stride;
  block.accumulate = op.accumulate;
  MINKE_KERNELS(kernels::MatmulKernels, matmul_kernels)
      ->block[format_index(op.right.format)][format_index(out.dtype)](block);
}

// Row blocks are even. A part is large enough to be worth a thread's while.
void cut(std::vector<Part>& parts, const Operation& op, size_t index) {
  constexpr int64_t kWork = int64_t{1} << 25, kMostPanels = 16;
  const int64_t m = op.out.rows, group = op.group_rows == kPanel ? kPanel : 1;
  const int64_t all = ceil_div(op.out.cols, kPanel);
  if (m == 0) return;
  const int64_t rows = ceil_div(ceil_div(m, ceil_div(m, kBlockRows)), group) * group;
  const int64_t panels =
      std::clamp<int64_t>(ceil_div(kWork, work_of(rows, kPanel, op.k)), 1, kMostPanels);
  for (int64_t row = 0; row < m; row += rows) {
    for (int64_t p = 0; p < all; p += panels) {
      parts.push_back({index, row, rows, p, std::min(panels, all - p)});
    }
  }
}

// Where rows are few, reading the panels takes the time: parts are of many bytes, so that a thread
// reads long runs, and of fewer near the end, where one thread waits for the last part of another.
void cut_reading(std::vector<Part>& parts, const Operation& op, size_t index, int64_t& left) {
  constexpr int64_t kMost = 1 << 20, kLeast = 1 << 18, kShare = 16;
  const int64_t all = ceil_div(op.out.cols, kPanel), each = panel_bytes(op.right);
  for (int64_t p = 0; p < all;) {
    const int64_t bytes = std::clamp(left / kShare, kLeast, kMost);
    const int64_t panels = std::min(
        ceil_div(bytes, std::max<int64_t>(1, each) * kBlockPanels) * kBlockPanels, all - p);
    parts.push_back({index, 0, op.out.rows, p, panels});
    p += panels;
    left -= panels * each;
  }
}

// Parts depend on sizes alone.
std::vector<Part> cut(std::span<const Operation> operations) {
  std::vector<Part> parts;
  int64_t bytes = 0;
  bool few = true;
  for (const Operation& op : operations) {
    bytes += ceil_div(op.out.cols, kPanel) * panel_bytes(op.right);
    few = few && op.out.rows <= kLeastRows;
  }
  for (size_t i = 0; i < operations.size(); ++i) {
    if (few && operations[i].out.rows > 0) {
      cut_reading(parts, operations[i], i, bytes);
    } else {
      cut(parts, operations[i], i);
    }
  }
  return parts;
}

void run(std::span<const Operation> operations) {
  constexpr int64_t kAlone = int64_t{1} << 20;  // some 5 us
  int64_t work = 0;
  for (const Operation& op : operations) work += work_of(op.out.rows, op.out.cols, op.k);
  const std::vector<Part> parts = cut(operations);
  const auto count = std::ssize(parts);
  parallel_for(count, work <= kAlone ? count + 1 : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Part& p = parts[static_cast<size_t>(i)];
      run_part(operations[p.operation], p);
    }
  });
}

}  // namespace

size_t packed_bytes(DType format, int64_t n, int64_t k) {
  check_format(format);
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
  for (const Product& product : products) operations.push_back(operation(product));
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
                     scratch.make(DType::kF32, {blocks, K})};
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
  run(operations);
}

}  // namespace minke::ops
