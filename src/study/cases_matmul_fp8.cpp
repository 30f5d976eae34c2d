// Cases of matmul whose right operand is E4M3 with scales.
//
// Bound of one number: with u = 2^-24, gamma(n) = n u / (1 - n u) (Higham 2002, section 3.1). A
// term of a block of k numbers (at most 128) is rounded at most k times while the block is added
// up (products of the operands' formats, at most 11 + 4 bits, are exact where the left side is
// BF16; one rounding more where it is FP32), twice where it is scaled, and once in each addition to
// the total; so it errs by at most gamma(k + 3 + blocks) of itself, and by one more rounding where
// the result is added to what was there. VDPBF16PS takes subnormal operands as zero and gives zero
// for subnormal results: an operand so lost takes at most 2^-126 |other| with it, a result 2^-126,
// each times the scales. Scaling itself may end among the subnormals of FP32, at the cost of
// 2^-149 (times the second scale, where it is the first). An output in BF16 is rounded once more.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/matmul.h"
#include "ref/matmul.h"
#include "study/compare.h"
#include "tensor/scales.h"

namespace minke::study {
namespace {

// What the scales of both sides are.
enum class Sides {
  kWeight,     // right: a weight's 128x128 blocks; left: numbers as they are
  kQuantized,  // left: codes in 1x128 tiles; right: a weight
  kColumns,    // both sides are codes with a scale for each row (as for wgrad)
};

struct Spec {
  std::vector<int64_t> rows;  // of each product
  int64_t N = 0, K = 0;
  Sides sides = Sides::kWeight;
  bool by_columns = false;  // the weight is [K, N]: dgrad
  int64_t segment = 0;      // of K, where the weight is stacked of several that long
  DType left = DType::kBF16, out = DType::kF32;
  bool accumulate = false;
  int64_t padding = 0;
  double deviation = 1;
  bool bench = false;
};

std::string_view name_of(Sides sides) {
  switch (sides) {
    case Sides::kWeight:
      return "weight";
    case Sides::kQuantized:
      return "quantised";
    case Sides::kColumns:
      return "columns";
  }
  MINKE_CHECK(false);
}

// A matrix of numbers in tiles: its codes, and the numbers they stand for.
struct Codes {
  OwnedTensor codes, scales;
};
Codes quantized(const std::string& name, int64_t rows, int64_t cols, TileShape tile,
                double deviation) {
  const OwnedTensor x = random_tensor(name, DType::kF32, {rows, cols}, deviation);
  Codes out{OwnedTensor(DType::kE4M3, {rows, cols}),
            OwnedTensor(DType::kF32, scale_shape({rows, cols}, tile))};
  quantize_e4m3(out.codes, out.scales, x, tile, ScaleFormat::kF32);
  return out;
}

// Codes times scales, not rounded.
std::vector<double> exact(const Codes& x, TileShape tile) {
  const int64_t rows = x.codes.dim(0), cols = x.codes.dim(1), across = x.scales.dim(1);
  std::vector<double> out(static_cast<size_t>(rows * cols));
  const auto* codes = static_cast<const uint8_t*>(x.codes.raw());
  for (int64_t i = 0; i < rows * cols; ++i) {
    const int64_t s = i / cols / tile.rows * across + i % cols / tile.cols;
    out[static_cast<size_t>(i)] =
        static_cast<double>(e4m3_decode(codes[i])) * double{x.scales.data<float>()[s]};
  }
  return out;
}

struct Member {
  int64_t M = 0;
  std::vector<double> left, right;         // the numbers, [M, K] and [N, K]
  double left_scale = 1, right_scale = 1;  // the largest ones
  OwnedTensor left_scales, right_scales, packed_memory, before;
  PaddedMatrix left_operand, out;
  ops::Packed packed;
};

double largest(const Tensor& scales) { return double{std::ranges::max(scales.span<float>())}; }

class Fp8Run : public OpRun {
 public:
  explicit Fp8Run(const Spec& spec) : spec_(spec) {
    for (const int64_t M : spec.rows) add(M);
  }

  void run() override {
    for (const Member& m : members_) {
      if (!m.before.empty()) copy_bytes(m.out.memory(), m.before);
    }
    ops::matmul(products_);
  }

  std::vector<Check> check() override {
    std::vector<Check> checks;
    for (size_t i = 0; i < members_.size(); ++i) {
      checks.push_back(check(members_[i], fmt::format("out {}", i)));
      checks.push_back(members_[i].out.padding_check(fmt::format("out {}", i)));
    }
    return checks;
  }

  std::vector<Tensor> outputs() override {
    std::vector<Tensor> out;
    for (const Member& m : members_) out.push_back(m.out.memory());
    return out;
  }

 private:
  // Codes are what the left operand holds: exact in its format.
  void make_left(Member& m, const std::string& name) const {
    const int64_t M = m.M, K = spec_.K;
    if (spec_.sides == Sides::kWeight) {
      m.left_operand = PaddedMatrix::random(name, spec_.left, M, K, spec_.padding, spec_.deviation);
      m.left = to_double(m.left_operand);
      return;
    }
    m.left_operand = PaddedMatrix(spec_.left, M, K, spec_.padding);
    m.left.resize(static_cast<size_t>(M * K));
    const ops::Matrix view = m.left_operand;
    const int64_t segment = segment_size(), blocks = (segment + 127) / 128;
    m.left_scales = OwnedTensor(DType::kF32, {M, K / segment * blocks});
    for (int64_t begin = 0; begin < K; begin += segment) {
      const Codes part = quantized(fmt::format("{} from {}", name, begin), M, segment, kTile1x128,
                                   spec_.deviation);
      const std::vector<double> values = exact(part, kTile1x128);
      for (int64_t i = 0; i < M * segment; ++i) {
        const int64_t r = i / segment, k = begin + i % segment;
        const float value = e4m3_decode(static_cast<const uint8_t*>(part.codes.raw())[i]);
        m.left[static_cast<size_t>(r * K + k)] = values[static_cast<size_t>(i)];
        if (spec_.left == DType::kBF16) {
          view.row<bf16>(r)[k] = bf16(value);
        } else {
          view.row<float>(r)[k] = value;
        }
      }
      for (int64_t i = 0; i < M * blocks; ++i) {
        m.left_scales.data<float>()[i / blocks * m.left_scales.dim(1) + begin / segment * blocks +
                                    i % blocks] = part.scales.data<float>()[i];
      }
    }
    m.left_scale = M * K > 0 ? largest(m.left_scales) : 1;
  }

  int64_t segment_size() const { return spec_.segment > 0 ? spec_.segment : spec_.K; }

  // A weight [K, N] of stacked ones.
  Codes stacked(const std::string& name, TileShape tile) const {
    const int64_t segment = segment_size(), parts = spec_.K / segment;
    const Shape scales = scale_shape({segment, spec_.N}, tile);
    Codes all{OwnedTensor(DType::kE4M3, {spec_.K, spec_.N}),
              OwnedTensor(DType::kF32, {parts * scales[0], scales[1]})};
    for (int64_t p = 0; p < parts; ++p) {
      const Codes part = quantized(fmt::format("{} part {}", name, p), segment, spec_.N, tile, 1);
      const auto copy = [&](const Tensor& to, const Tensor& from) {
        std::memcpy(to.rows(p * from.dim(0), from.dim(0)).raw(), from.raw(), from.bytes());
      };
      copy(all.codes, part.codes);
      copy(all.scales, part.scales);
    }
    return all;
  }
  // The numbers of stacked weights, [K, N].
  std::vector<double> exact_stacked(const Codes& all, TileShape tile) const {
    const int64_t parts = spec_.K / segment_size();
    std::vector<double> out;
    for (int64_t p = 0; p < parts; ++p) {
      const auto part = [&](const OwnedTensor& of) {
        const int64_t rows = of.dim(0) / parts;
        OwnedTensor copy(of.dtype(), {rows, of.dim(1)});
        std::memcpy(copy.raw(), of.rows(p * rows, rows).raw(), copy.bytes());
        return copy;
      };
      const std::vector<double> values = exact({part(all.codes), part(all.scales)}, tile);
      out.insert(out.end(), values.begin(), values.end());
    }
    return out;
  }

  void make_right(Member& m, const std::string& name) const {
    const int64_t N = spec_.N, K = spec_.K, blocks = (K + 127) / 128;
    const bool columns = spec_.by_columns;
    const TileShape tile =
        spec_.sides == Sides::kColumns ? (columns ? kTile128x1 : kTile1x128) : kBlock128x128;
    Codes w = columns ? stacked(name, tile) : quantized(name, N, K, tile, 1);
    const std::vector<double> values = columns ? exact_stacked(w, tile) : exact(w, tile);
    m.right.resize(values.size());
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t k = 0; k < K; ++k) {
        m.right[static_cast<size_t>(n * K + k)] =
            values[static_cast<size_t>(columns ? k * N + n : n * K + k)];
      }
    }
    m.packed_memory =
        OwnedTensor(DType::kU8, {static_cast<int64_t>(ops::packed_bytes(DType::kE4M3, N, K))});
    m.right_scales = std::move(w.scales);
    m.right_scale = N * K > 0 ? largest(m.right_scales) : 1;
    const int64_t width = spec_.sides == Sides::kColumns ? 1 : 128;
    const int64_t tiles = (N + width - 1) / width;
    m.packed = {static_cast<std::byte*>(m.packed_memory.raw()),
                DType::kE4M3,
                N,
                K,
                {m.right_scales.data<float>(), width, columns ? 1 : blocks, columns ? tiles : 1},
                spec_.segment};
    const ops::PackJob job{m.packed, w.codes};
    if (columns) {
      ops::pack_columns(std::span(&job, 1));
    } else {
      ops::pack_rows(std::span(&job, 1));
    }
  }

  void add(int64_t M) {
    Member m;
    m.M = M;
    make_left(m, fmt::format("left {}", members_.size()));
    make_right(m, fmt::format("right {}", members_.size()));
    m.out = PaddedMatrix::random("before", spec_.out, M, spec_.N, spec_.padding);
    if (spec_.accumulate) {
      m.before = OwnedTensor(spec_.out, {M, spec_.N + spec_.padding});
      copy_bytes(m.before, m.out.memory());
    }
    members_.push_back(std::move(m));
    const Member& made = members_.back();
    ops::Product product{made.out, made.left_operand, made.packed, spec_.accumulate};
    if (!made.left_scales.empty()) {
      product.left_scales = {made.left_scales.data<float>(), 1, made.left_scales.dim(1), 1};
    }
    products_.push_back(product);
  }

  std::vector<double> product(const Member& m, const std::vector<double>& left,
                              const std::vector<double>& right) const {
    std::vector<double> out(static_cast<size_t>(m.M * spec_.N));
    ref::matmul<double>(out, left, right, m.M, spec_.N, spec_.K);
    return out;
  }

  Check check(const Member& m, const std::string& name) const {
    constexpr double kSmallestNormal = 0x1p-126, kSubnormal = 0x1p-149,
                     kHalfSubnormalBF16 = 0x1p-134;
    std::vector<double> want = product(m, m.left, m.right);
    const std::vector<double> left = magnitudes(m.left), right = magnitudes(m.right);
    const std::vector<double> size = product(m, left, right);
    const std::vector<double> ones_left(left.size(), 1), ones_right(right.size(), 1);
    const std::vector<double> lost_left = product(m, left, ones_right),
                              lost_right = product(m, ones_left, right);
    std::vector<double> before(want.size());
    if (spec_.accumulate) {
      const ops::Matrix view = m.out;
      before = to_double({m.before.raw(), view.dtype, view.rows, view.cols, view.stride});
    }
    std::vector<double> bound(want.size());
    const double K = static_cast<double>(spec_.K), segment = static_cast<double>(segment_size());
    const double blocks = K == 0 ? 0 : K / segment * std::ceil(segment / 128);
    const double n = std::min(K, 128.0) + 4 + blocks;
    const double gamma = n * kRoundoffF32 / (1 - n * kRoundoffF32);
    for (size_t i = 0; i < want.size(); ++i) {
      const double scale = m.left_scale * m.right_scale;
      const double floor = kSmallestNormal * (m.right_scale * lost_left[i] +
                                              m.left_scale * lost_right[i] + 2 * K * scale) +
                           blocks * kSubnormal * (1 + m.right_scale);
      want[i] += before[i];
      bound[i] = gamma * (size[i] + std::abs(before[i])) + floor;
      if (spec_.out == DType::kBF16) {
        bound[i] += kRoundoffBF16 * (std::abs(want[i]) + bound[i]) + kHalfSubnormalBF16;
      }
    }
    return compare(name, m.out, want, bound);
  }

  Spec spec_;
  std::vector<Member> members_;
  std::vector<ops::Product> products_;
};

void add(OpCases& cases, const Spec& spec) {
  int64_t rows = 0;
  for (const int64_t M : spec.rows) rows += M;
  const auto groups = spec.rows.size();
  OpCase out;
  out.op = "matmul";
  out.shape = groups == 1 ? fmt::format("{}", rows) : fmt::format("{} in {}", rows, groups);
  out.shape += fmt::format("x{}x{} {} by e4m3 {} {}", spec.N, spec.K, short_name(spec.left),
                           spec.by_columns ? "dgrad" : "fprop", name_of(spec.sides));
  if (spec.segment > 0) out.shape += fmt::format(" in segments of {}", spec.segment);
  if (spec.out != DType::kF32) out.shape += fmt::format(" to {}", short_name(spec.out));
  if (spec.accumulate) out.shape += " accumulated";
  if (spec.padding > 0) out.shape += fmt::format(" padded by {}", spec.padding);
  if (spec.deviation != 1) out.shape += fmt::format(" of size {}", spec.deviation);
  out.bench = spec.bench;
  const bool few_rows = rows <= 8;  // then reading the packed operand is what takes the time
  out.limit = few_rows                    ? Limit::kRead
              : spec.left == DType::kBF16 ? Limit::kComputeBF16
                                          : Limit::kComputeF32;
  out.work = few_rows
                 ? static_cast<double>(ops::packed_bytes(DType::kE4M3, spec.N, spec.K) * groups)
                 : 2.0 * static_cast<double>(rows * spec.N * spec.K);
  out.make = [spec] { return std::make_unique<Fp8Run>(spec); };
  cases.push_back(std::move(out));
}

}  // namespace

void add_matmul_fp8_cases(OpCases& cases) {
  for (const DType left : {DType::kF32, DType::kBF16}) {
    for (const Sides sides : {Sides::kWeight, Sides::kQuantized, Sides::kColumns}) {
      for (const bool by_columns : {false, true}) {
        Spec spec;
        spec.left = left;
        spec.sides = sides;
        spec.by_columns = by_columns;
        const auto with = [&](std::vector<int64_t> rows, int64_t N, int64_t K) {
          Spec sized = spec;
          sized.rows = std::move(rows);
          sized.N = N;
          sized.K = K;
          return sized;
        };
        // Every height of a tile, columns to and past a panel and a block, partial blocks.
        for (int64_t i = 1; i <= 26; ++i) add(cases, with({i}, 27 + 7 * i, 1 + (i * 31) % 300));
        for (const int64_t K : {127, 128, 129, 255, 256, 257, 700}) add(cases, with({5}, 33, K));
        add(cases, with({0}, 3, 5));
        add(cases, with({131}, 135, 137));
        add(cases, with({2}, 300, 576));
        Spec group = with({3, 0, 17, 1, 40}, 135, 200);
        group.padding = 3;
        add(cases, group);
        group.accumulate = true;
        add(cases, group);
        group.accumulate = false;
        group.out = DType::kBF16;
        add(cases, group);
        if (by_columns) {
          for (const int64_t segment : {2, 126, 128, 130, 176, 260}) {
            Spec parts = with({1, 13}, 70, 2 * segment);
            parts.segment = segment;
            add(cases, parts);
          }
        }
        Spec tiny = with({7}, 33, 140);
        tiny.deviation = 1e-30;
        add(cases, tiny);
        tiny.deviation = 1e-39;
        add(cases, tiny);
      }
    }
  }
  Spec spec;
  spec.bench = true;
  spec.out = DType::kBF16;
  spec.rows = {512};
  spec.N = 1408;
  spec.K = 2048;
  add(cases, spec);
  spec.sides = Sides::kQuantized;
  add(cases, spec);
  spec.by_columns = true;
  add(cases, spec);
  spec.sides = Sides::kColumns;
  spec.out = DType::kF32;
  add(cases, spec);
  for (const int64_t rows : {1, 2, 4, 8, 16, 24, 32, 48}) {
    Spec decode;
    decode.rows = std::vector<int64_t>(8, rows);
    decode.N = decode.K = 4096;
    decode.out = DType::kBF16;
    decode.bench = true;
    add(cases, decode);
  }
}

}  // namespace minke::study
