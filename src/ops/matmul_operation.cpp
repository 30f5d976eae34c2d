#include "ops/matmul_operation.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "ops/dispatch.h"
#include "ops/quantize.h"
#include "ops/tensor_core.h"

namespace minke::ops {
namespace {

using kernels::Fp8Kernels;
using kernels::kBlockRows;
using kernels::kPanel;
using kernels::MatmulBlock;

static_assert(kScaleBlock == kernels::kScaleBlock);

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

// A block of rows of the left side, quantised by the thread that multiplies it, which finds it in
// its caches. Parts of one block follow each other, so a thread keeps its last one.
struct LeftBlock {
  uint64_t call = 0;  // of run
  size_t operation = 0;
  int64_t row = 0;
  std::vector<bf16> numbers;
  std::vector<float> scales;
};

const LeftBlock& quantized_block(const Operation& op, const Part& p, uint64_t call) {
  thread_local LeftBlock block;
  if (block.call == call && block.operation == p.operation && block.row == p.row) {
    return block;
  }
  const Matrix x = part(op.source, p.row, p.rows, 0, op.source.cols);
  block.numbers.resize(static_cast<size_t>(kBlockRows * op.k));
  block.scales.resize(static_cast<size_t>(kBlockRows * op.left_scales.stride));
  const Matrix numbers(block.numbers.data(), DType::kBF16, x.rows, op.k, op.k);
  quantize_left(numbers, block.scales.data(), x, op.tiles);
  block.call = call;
  block.operation = p.operation;
  block.row = p.row;
  return block;
}

// As run_part, where the right side has scales.
void run_fp8_part(const Operation& op, const Part& p, const Matrix& out, uint64_t call) {
  kernels::Fp8Block block{};
  block.group_rows = op.group_rows;
  block.group_stride = op.group_stride;
  if (op.source.empty()) {
    block.left =
        op.left + p.row / op.group_rows * op.group_stride + p.row % op.group_rows * op.row_stride;
    block.row_stride = op.row_stride;
    if (op.left_scales.data != nullptr) {
      block.left_scale = op.left_scales.data + p.row * op.left_scales.stride;
    }
  } else {
    const LeftBlock& left = quantized_block(op, p, call);
    block.left = reinterpret_cast<const std::byte*>(left.numbers.data());
    block.row_stride = op.row_stride;
    block.left_scale = left.scales.data();
  }
  block.unit_stride = op.unit_stride;
  block.left_scale_row = op.left_scales.stride;
  block.left_scale_block = op.left_scales.block_stride;
  block.right = op.right.data + p.panel * panel_bytes(op.right);
  block.right_is_codes = is_codes(op.right.format);
  block.right_scale = op.right.scales.data;
  block.first_column = p.panel * kPanel;
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
void run_int_part(const Operation& op, const Part& p, const Matrix& out) {
  const kernels::IntBlock block{op.left + p.row * op.row_stride,
                                op.row_stride,
                                op.right.data + p.panel * panel_bytes(op.right),
                                out.rows,
                                out.cols,
                                op.k,
                                out.data,
                                out.stride,
                                op.accumulate};
  int_table()->block[int_index(op.right.format)][format_index(out.dtype)](block);
}

void run_part(const Operation& op, const Part& p, uint64_t call) {
  const Matrix out = part(op.out, p.row, p.rows, p.panel * kPanel, p.panels * kPanel);
  if (op.right.scales.data != nullptr) return run_fp8_part(op, p, out, call);
  if (is_integers(op.right.format)) return run_int_part(op, p, out);
  MatmulBlock block{};
  // A block of rows begins a group, or is within the only one.
  block.left =
      op.left + p.row / op.group_rows * op.group_stride + p.row % op.group_rows * op.row_stride;
  block.group_rows = op.group_rows;
  block.group_stride = op.group_stride;
  block.row_stride = op.row_stride;
  block.unit_stride = op.unit_stride;
  block.right = op.right.data + p.panel * panel_bytes(op.right);
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

// Where rows are few, reading the panels takes the time: threads take runs of panels, which lie in
// memory one after the other.
void run_reading(std::span<const Operation> operations, uint64_t call) {
  std::vector<int64_t> ends;
  ends.reserve(operations.size());
  int64_t all = 0;
  for (const Operation& op : operations) {
    ends.push_back(all += op.out.rows == 0 ? 0 : ceil_div(op.out.cols, kPanel));
  }
  parallel_for_runs(all, [&](int64_t begin, int64_t end) {
    auto i = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
    for (int64_t first = i == 0 ? 0 : ends[i - 1]; begin < end; first = ends[i++]) {
      const int64_t here = std::min(end, ends[i]) - begin;
      const Part p{i, 0, operations[i].out.rows, begin - first, here};
      if (here > 0) run_part(operations[i], p, call);
      begin += here;
    }
  });
}

}  // namespace

void check_operand_format(DType format) {
  if (!is_codes(format) && !is_integers(format)) format_index(format);
}

void check_packed(const Packed& x) {
  check_operand_format(x.format);
  MINKE_CHECK(x.n >= 0 && x.k >= 0 && reinterpret_cast<uintptr_t>(x.data) % 64 == 0);
}

void run(std::span<const Operation> operations) {
  constexpr int64_t kAlone = int64_t{1} << 20;  // some 5 us
  static std::atomic<uint64_t> calls = 0;
  const uint64_t call = ++calls;
  int64_t work = 0;
  bool few = true;
  for (const Operation& op : operations) {
    work += work_of(op.out.rows, op.out.cols, op.k);
    few = few && op.out.rows <= kLeastRows;
  }
  if (few && work > kAlone) return run_reading(operations, call);
  std::vector<Part> parts;
  for (size_t i = 0; i < operations.size(); ++i) cut(parts, operations[i], i);
  const auto count = std::ssize(parts);
  parallel_for(count, work <= kAlone ? count + 1 : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Part& p = parts[static_cast<size_t>(i)];
      run_part(operations[p.operation], p, call);
    }
  });
}

}  // namespace minke::ops
