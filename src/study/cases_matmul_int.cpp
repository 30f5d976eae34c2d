// Cases of matmul whose right operand is integers with scales.
//
// Bound of one number: sums within a block are exact (at most 128 products of at most 127 * 128, or
// 127 * 8: below 2^24, so that they are exact in FP32, too). With u = 2^-24, gamma(n) = n u / (1 -
// n u) (Higham 2002, section 3.1): a block's sum is rounded where it is multiplied by the right
// side's scale, and by the left side's, and in each addition of blocks before and after that:
// gamma(blocks + 3) of the sum of magnitudes of blocks, with one rounding more where it is added to
// what was there. Scales are at least 2^-126, so nothing is lost below FP32's subnormals but 2^-149
// a block. An output in BF16 is rounded once more.
//
// The left side is what quantize_to_integers makes of numbers: compared are its codes and scales,
// which must be those of their definition exactly.
#include <algorithm>
#include <cmath>

#include "ops/matmul.h"
#include "study/compare.h"
#include "tensor/integers.h"

namespace minke::study {
namespace {

struct Spec {
  std::vector<int64_t> rows;  // of each product
  int64_t N = 0, K = 0;
  DType format = DType::kI8;
  DType left = DType::kBF16, out = DType::kF32;
  bool accumulate = false, bench = false;
};

struct Member {
  int64_t M = 0;
  PaddedMatrix x, out;
  OwnedTensor codes, scales, memory, before;
  ops::Packed packed;
};

class IntRun : public OpRun {
 public:
  explicit IntRun(const Spec& spec) : spec_(spec), scratch_(bytes_of_rows()) {
    for (const int64_t M : spec.rows) add(M);
  }

  void run() override {
    const Arena::Scope scope(scratch_);
    std::vector<ops::Product> products;
    for (const Member& m : members_) {
      if (spec_.accumulate) copy_bytes(m.out.memory(), m.before);
      products.push_back(
          {m.out, ops::quantize_to_integers(scratch_, m.x), m.packed, spec_.accumulate});
    }
    ops::matmul(products);
  }

  std::vector<Check> check() override {
    std::vector<Check> checks;
    for (const Member& m : members_) {
      checks.push_back(check(m));
      checks.push_back(m.out.padding_check("out"));
    }
    return checks;
  }

  std::vector<Tensor> outputs() override {
    std::vector<Tensor> out;
    for (const Member& m : members_) out.push_back(m.out.memory());
    return out;
  }

 private:
  size_t bytes_of_rows() const {
    size_t bytes = 4096;
    for (const int64_t M : spec_.rows) {
      bytes += static_cast<size_t>(M * ops::int_row_bytes(spec_.K)) + 64;
    }
    return bytes;
  }

  void add(int64_t M) {
    const auto index = members_.size();
    const Shape weight{spec_.N, spec_.K};
    Member m;
    m.M = M;
    m.x = PaddedMatrix::random(fmt::format("left {}", index), spec_.left, M, spec_.K, 1, 1);
    const OwnedTensor w = random_tensor(fmt::format("right {}", index), DType::kF32, weight, 1);
    m.codes = OwnedTensor(spec_.format, int_codes_shape(weight, spec_.format));
    m.scales = OwnedTensor(DType::kBF16, int_scale_shape(weight, spec_.format));
    quantize_integers(m.codes, m.scales, w);
    m.memory = OwnedTensor(
        DType::kU8, {static_cast<int64_t>(ops::packed_bytes(spec_.format, spec_.N, spec_.K))});
    m.packed = {static_cast<std::byte*>(m.memory.raw()), spec_.format, spec_.N, spec_.K};
    const ops::PackJob job{m.packed, m.codes, m.scales};
    ops::pack_rows(std::span(&job, 1));
    m.out = PaddedMatrix::random("before", spec_.out, M, spec_.N, 3);
    if (spec_.accumulate) {
      m.before = OwnedTensor(spec_.out, {M, spec_.N + 3});
      copy_bytes(m.before, m.out.memory());
    }
    members_.push_back(std::move(m));
  }

  // Codes and scales of the left side by their definition, one block of the sum after the other.
  Check check(const Member& m) const {
    const int64_t K = spec_.K, N = spec_.N, block = int_block(spec_.format);
    const std::vector<double> x = to_double(m.x);
    const OwnedTensor w(DType::kF32, {N, K});
    dequantize_integers(w, m.codes, m.scales);
    std::vector<double> a(x.size());
    for (int64_t r = 0; r < m.M; ++r) {
      for (int64_t k = 0; k < K; k += kInt8Block) {
        const int64_t end = std::min(K, k + kInt8Block);
        double amax = 0;
        for (int64_t i = k; i < end; ++i) {
          amax = std::max(amax, std::abs(x[static_cast<size_t>(r * K + i)]));
        }
        const float scale = int8_scale(static_cast<float>(amax));
        for (int64_t i = k; i < end; ++i) {
          const auto at = static_cast<size_t>(r * K + i);
          a[at] = double{std::nearbyint(static_cast<float>(x[at]) / scale)} * double{scale};
        }
      }
    }
    std::vector<double> before(static_cast<size_t>(m.M * N));
    if (spec_.accumulate) {
      const ops::Matrix view = m.out;
      before = to_double({m.before.raw(), view.dtype, view.rows, view.cols, view.stride});
    }
    std::vector<double> want = before, bound(want.size());
    const int64_t count = (K + block - 1) / block;
    const double blocks = static_cast<double>(count), n = blocks + 4;
    const double gamma = n * kRoundoffF32 / (1 - n * kRoundoffF32);
    for (int64_t r = 0; r < m.M; ++r) {
      for (int64_t c = 0; c < N; ++c) {
        const auto at = static_cast<size_t>(r * N + c);
        double size = std::abs(before[at]);
        for (int64_t k = 0; k < K; k += block) {
          double sum = 0;
          for (int64_t i = k; i < std::min(K, k + block); ++i) {
            sum += a[static_cast<size_t>(r * K + i)] * double{w.data<float>()[c * K + i]};
          }
          want[at] += sum;
          size += std::abs(sum);
        }
        bound[at] = gamma * size + blocks * 0x1p-149;
        if (spec_.out == DType::kBF16)
          bound[at] += kRoundoffBF16 * (std::abs(want[at]) + bound[at]);
      }
    }
    return compare("out", m.out, want, bound);
  }

  Spec spec_;
  Arena scratch_;
  std::vector<Member> members_;
};

void add(OpCases& cases, const Spec& spec) {
  int64_t rows = 0;
  for (const int64_t M : spec.rows) rows += M;
  const auto groups = spec.rows.size();
  OpCase out;
  out.op = "matmul";
  out.shape = groups == 1 ? fmt::format("{}", rows) : fmt::format("{} in {}", rows, groups);
  out.shape += fmt::format("x{}x{} {} by {}", spec.N, spec.K, short_name(spec.left),
                           spec.format == DType::kI8 ? "int8" : "int4");
  if (spec.out != DType::kF32) out.shape += fmt::format(" to {}", short_name(spec.out));
  if (spec.accumulate) out.shape += " accumulated";
  out.bench = spec.bench;
  const bool few_rows = rows <= 8 * static_cast<int64_t>(groups);
  out.limit = few_rows ? Limit::kRead : Limit::kComputeBF16;
  out.work = few_rows ? static_cast<double>(ops::packed_bytes(spec.format, spec.N, spec.K) * groups)
                      : 2.0 * static_cast<double>(rows * spec.N * spec.K);
  out.make = [spec] { return std::make_unique<IntRun>(spec); };
  cases.push_back(std::move(out));
}

}  // namespace

void add_matmul_int_cases(OpCases& cases) {
  for (const DType format : {DType::kI8, DType::kU8}) {
    const auto with = [&](std::vector<int64_t> rows, int64_t N, int64_t K) {
      Spec spec;
      spec.rows = std::move(rows);
      spec.N = N;
      spec.K = K;
      spec.format = format;
      return spec;
    };
    // Every height of a tile, columns to and past a panel, partial blocks.
    for (int64_t i = 1; i <= 26; ++i) add(cases, with({i}, 27 + 7 * i, 1 + (i * 31) % 300));
    for (const int64_t K : {1, 31, 32, 33, 127, 128, 129, 700}) add(cases, with({5}, 33, K));
    add(cases, with({0}, 3, 5));
    add(cases, with({131}, 135, 137));
    Spec group = with({3, 0, 17, 1, 40}, 135, 200);
    group.left = DType::kF32;
    add(cases, group);
    group.accumulate = true;
    add(cases, group);
    group.accumulate = false;
    group.out = DType::kBF16;
    add(cases, group);
    Spec bench = with({512}, 1408, 2048);
    bench.bench = true;
    bench.out = DType::kBF16;
    add(cases, bench);
    bench = with(std::vector<int64_t>(8, 1), 4096, 4096);
    bench.bench = true;
    add(cases, bench);
  }
}

}  // namespace minke::study
