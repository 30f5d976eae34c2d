#include "ops/tensor_core.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/kernels/matmul.h"

namespace minke::ops {
namespace {

constexpr size_t kProducts = 32;  // of one instruction
constexpr int kBits = 14;

}  // namespace

float tensor_core_dot(std::span<const float> a, std::span<const float> b, int64_t promote) {
  MINKE_CHECK(a.size() == b.size() && promote % static_cast<int64_t>(kProducts) == 0);
  float total = 0;
  double sum = 0;
  for (size_t begin = 0; begin < a.size(); begin += kProducts) {
    const size_t end = std::min(a.size(), begin + kProducts);
    double most = std::abs(sum);
    for (size_t i = begin; i < end; ++i)
      most = std::max(most, std::abs(double{a[i]} * double{b[i]}));
    if (most > 0) {
      const double unit = std::ldexp(1.0, std::ilogb(most) - (kBits - 1));
      const auto cut = [](double x, double to) { return std::trunc(x / to) * to; };
      double added = cut(sum, unit);
      for (size_t i = begin; i < end; ++i) added += cut(double{a[i]} * double{b[i]}, unit);
      sum = added == 0 ? 0 : cut(added, std::ldexp(1.0, std::ilogb(added) - (kBits - 1)));
    }
    if (promote > 0 && end % static_cast<size_t>(promote) == 0) {
      total += static_cast<float>(sum);
      sum = 0;
    }
  }
  return total + static_cast<float>(sum);
}

namespace {

using kernels::Fp8Block;
using kernels::kFp8UnitBytes;
using kernels::kPanel;
using kernels::kUnitBytes;

// The layouts are those of ops/kernels/matmul.h and matmul_fp8.h.
float left_number(const Fp8Block& b, int64_t row, int64_t k) {
  const std::byte* unit = b.left + row / b.group_rows * b.group_stride +
                          row % b.group_rows * b.row_stride + k / 2 * b.unit_stride;
  return static_cast<float>(reinterpret_cast<const bf16*>(unit)[k % 2]);
}

float right_number(const Fp8Block& b, int64_t column, int64_t k) {
  const int64_t c = column % kPanel, panel = column / kPanel * ((b.k + 1) / 2) + k / 2;
  if (!b.right_is_codes) {
    const std::byte* unit = b.right + (panel * kPanel + c) * kUnitBytes;
    return static_cast<float>(reinterpret_cast<const bf16*>(unit)[k % 2]);
  }
  const int64_t slot = c % 16 / 4 * 8 + c / 16 * 4 + c % 4;
  const std::byte* unit = b.right + panel * kFp8UnitBytes;
  return e4m3_decode(reinterpret_cast<const uint8_t*>(unit)[2 * slot + k % 2]);
}

// A block of the sum that has its own scales.
struct SumBlock {
  size_t begin, count;
};
std::vector<SumBlock> sum_blocks(const Fp8Block& b) {
  std::vector<SumBlock> out;
  for (int64_t begin = 0; begin < b.k;) {
    const int64_t rest = std::min(b.segment - begin % b.segment, b.k - begin);
    const int64_t count = std::min(rest, kernels::kScaleBlock);
    out.push_back({static_cast<size_t>(begin), static_cast<size_t>(count)});
    begin += count;
  }
  return out;
}

}  // namespace

void tensor_core_block(const Fp8Block& b, DType out, int64_t promote) {
  const std::vector<SumBlock> blocks = sum_blocks(b);
  const bool scaled_after = promote > 0 && promote <= kernels::kScaleBlock;
  std::vector<float> left(static_cast<size_t>(b.k)), right(left.size());
  std::vector<float> scales(blocks.size());
  for (int64_t c = 0; c < b.cols; ++c) {
    for (int64_t r = 0; r < b.rows; ++r) {
      for (size_t i = 0; i < blocks.size(); ++i) {
        const auto at = static_cast<int64_t>(i);
        const float mine = b.left_scale[r * b.left_scale_row + at * b.left_scale_block];
        const float other = b.right_scale[(b.first_column + c) / b.right_tile * b.right_scale_tile +
                                          at * b.right_scale_block];
        for (size_t k = blocks[i].begin; k < blocks[i].begin + blocks[i].count; ++k) {
          left[k] = left_number(b, r, static_cast<int64_t>(k)) * (scaled_after ? 1 : mine);
          right[k] = right_number(b, c, static_cast<int64_t>(k)) * (scaled_after ? 1 : other);
        }
        scales[i] = mine * other;
      }
      float total = 0;
      if (!scaled_after) total = tensor_core_dot(left, right, promote);
      for (size_t i = 0; scaled_after && i < blocks.size(); ++i) {
        const auto [begin, count] = blocks[i];
        total += scales[i] * tensor_core_dot(std::span(left).subspan(begin, count),
                                             std::span(right).subspan(begin, count), promote);
      }
      const int64_t i = r * b.out_stride + c;
      if (out == DType::kBF16) {
        static_cast<bf16*>(b.out)[i] = bf16(total);
      } else {
        float& to = static_cast<float*>(b.out)[i];
        to = b.accumulate ? to + total : total;
      }
    }
  }
}

}  // namespace minke::ops
