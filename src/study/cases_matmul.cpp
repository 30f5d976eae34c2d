// Cases of matmul, matmul_wgrad and packing.
//
// Bound of one number that sums n products (and what was there before, where it accumulates): with
// u = 2^-24, gamma(n) = n u / (1 - n u) (Higham 2002, section 3.1), products and sums in FP32 in
// any order err by at most gamma(n + 1) * (sum |a| |b| + |before|). Operands are what the kernels
// see: the reference is computed from numbers already rounded to the operands' format, whose
// products are exact in FP32 where it is BF16. VDPBF16PS takes subnormal operands as zero, and
// gives zero for subnormal results: an operand so lost takes at most 2^-126 |other| with it, a
// result 2^-126. An output in BF16 is rounded once more, by at most 2^-8 of itself, or half its
// smallest subnormal.
#include <cmath>
#include <utility>

#include "ops/matmul.h"
#include "ref/matmul.h"
#include "study/compare.h"

namespace minke::study {
namespace {

enum class Kind { kFprop, kDgrad, kWgrad };

// y [M, N] = x [M, K] w [N, K]^T, for each entry of `tokens` (M) with its own w.
struct Shape3 {
  std::vector<int64_t> tokens;
  int64_t N = 0, K = 0;
};

struct Spec {
  Kind kind = Kind::kFprop;
  Shape3 shape;
  DType format = DType::kF32;
  DType source = DType::kF32;  // what operands are made from
  DType out = DType::kF32;
  bool accumulate = false;
  int64_t padding = 0;  // numbers between the rows of every matrix
  double deviation = 1;
  bool bench = false;
};

std::string_view name_of(Kind kind) {
  switch (kind) {
    case Kind::kFprop:
      return "fprop";
    case Kind::kDgrad:
      return "dgrad";
    case Kind::kWgrad:
      return "wgrad";
  }
  MINKE_CHECK(false);
}

// The numbers as the operand's format holds them.
std::vector<double> rounded(const ops::Matrix& x, DType format) {
  std::vector<double> out = to_double(x);
  if (format == DType::kBF16) {
    for (double& v : out) v = static_cast<double>(static_cast<float>(bf16(static_cast<float>(v))));
  }
  return out;
}

// One product of the layer: its matrices and operands.
struct Member {
  int64_t M;
  PaddedMatrix left, right, out;  // x, w, y; dy, w, dx; dy, x, dw
  OwnedTensor before;             // memory of `out`, where it accumulates
  OwnedTensor packed_memory;
  ops::Matrix left_operand;
  ops::Packed right_operand;
};

class MatmulRun : public OpRun {
 public:
  explicit MatmulRun(const Spec& spec) : spec_(spec) {
    int64_t rows = 0;
    for (const int64_t M : spec.shape.tokens) rows += M;
    const int64_t N = spec.shape.N, K = spec.shape.K, matrices = spec.shape.tokens.size();
    const auto bytes = static_cast<size_t>(4 * (rows + 66 * matrices) * (N + K + 64));
    scratch_ = std::make_unique<Arena>(bytes);
    for (const int64_t M : spec.shape.tokens) add(M);
    for (Member& member : members_) pack(member);
  }

  void run() override {
    if (spec_.accumulate && !spec_.bench) {
      for (Member& m : members_) copy_bytes(m.out.memory(), m.before);
      runs_ = 0;
    }
    ++runs_;
    if (spec_.kind == Kind::kWgrad) {
      ops::matmul_wgrad(gradients_, spec_.format, *scratch_);
    } else {
      ops::matmul(products_);
    }
  }

  std::vector<Check> check() override {
    std::vector<Check> checks;
    for (size_t i = 0; i < members_.size(); ++i) {
      const std::string name = fmt::format("out {}", i);
      checks.push_back(check(members_[i], name));
      checks.push_back(members_[i].out.padding_check(name));
    }
    return checks;
  }

  std::vector<Tensor> outputs() override {
    std::vector<Tensor> out;
    for (const Member& m : members_) out.push_back(m.out.memory());
    return out;
  }

 private:
  void add(int64_t M) {
    const int64_t N = spec_.shape.N, K = spec_.shape.K;
    const auto random = [&](std::string_view what, int64_t rows, int64_t cols) {
      return PaddedMatrix::random(fmt::format("{} {}", what, members_.size()), spec_.source, rows,
                                  cols, spec_.padding, spec_.deviation);
    };
    const bool wgrad = spec_.kind == Kind::kWgrad, fprop = spec_.kind == Kind::kFprop;
    Member m{};
    m.M = M;
    m.left = random("left", M, fprop ? K : N);
    m.right = wgrad ? random("x", M, K) : random("w", N, K);
    const int64_t rows = wgrad ? N : M, cols = fprop ? N : K;
    // What `out` held before the run: numbers where they are added to, else anything.
    m.out = PaddedMatrix::random("before", spec_.out, rows, cols, spec_.padding);
    if (spec_.accumulate) {
      m.before = OwnedTensor(spec_.out, {rows, cols + spec_.padding});
      copy_bytes(m.before, m.out.memory());
    }
    members_.push_back(std::move(m));
  }

  void pack(Member& m) {
    if (spec_.kind == Kind::kWgrad) {
      gradients_.push_back({m.out, m.left, m.right, spec_.accumulate});
      return;
    }
    const bool fprop = spec_.kind == Kind::kFprop;
    const int64_t n = fprop ? spec_.shape.N : spec_.shape.K;
    const int64_t k = fprop ? spec_.shape.K : spec_.shape.N;
    m.packed_memory =
        OwnedTensor(DType::kU8, {static_cast<int64_t>(ops::packed_bytes(spec_.format, n, k))});
    m.right_operand = {static_cast<std::byte*>(m.packed_memory.raw()), spec_.format, n, k};
    const ops::PackJob job{m.right_operand, m.right};
    if (fprop) {
      ops::pack_rows(std::span(&job, 1));
    } else {
      ops::pack_columns(std::span(&job, 1));
    }
    m.left_operand = ops::prepare(*scratch_, m.left, spec_.format);
    products_.push_back({m.out, m.left_operand, m.right_operand, spec_.accumulate});
  }

  // The product of the members' sizes, or of the numbers given instead of left and right.
  std::vector<double> product(const Member& m, const std::vector<double>& left,
                              const std::vector<double>& right) const {
    const ops::Matrix view = m.out;
    std::vector<double> out(static_cast<size_t>(view.rows * view.cols));
    const int64_t N = spec_.shape.N, K = spec_.shape.K;
    switch (spec_.kind) {
      case Kind::kFprop:
        ref::matmul<double>(out, left, right, m.M, N, K);
        break;
      case Kind::kDgrad:
        ref::matmul_dgrad<double>(out, left, right, m.M, N, K);
        break;
      case Kind::kWgrad:
        ref::matmul_wgrad<double>(out, left, right, m.M, N, K);
        break;
    }
    return out;
  }

  Check check(const Member& m, const std::string& name) const {
    constexpr double kSmallestNormal = 0x1p-126, kHalfSubnormalBF16 = 0x1p-134;
    const std::vector<double> left = rounded(m.left, spec_.format),
                              right = rounded(m.right, spec_.format);
    std::vector<double> want = product(m, left, right);
    const std::vector<double> left_size = magnitudes(left), right_size = magnitudes(right);
    const std::vector<double> size = product(m, left_size, right_size);
    // |a| + |b| + 2 for every product: the two operands lost, and two results.
    const std::vector<double> ones_left(left.size(), 1), ones_right(right.size(), 1);
    const std::vector<double> lost_left = product(m, left_size, ones_right),
                              lost_right = product(m, ones_left, right_size),
                              terms = product(m, ones_left, ones_right);
    std::vector<double> before(want.size());
    if (spec_.accumulate) {
      const ops::Matrix view = m.out;
      before = to_double({m.before.raw(), view.dtype, view.rows, view.cols, view.stride});
    }
    std::vector<double> bound(want.size());
    const auto runs = static_cast<double>(spec_.accumulate ? runs_ : 1);
    for (size_t i = 0; i < want.size(); ++i) {
      const double n = terms[i] + runs, gamma = n * kRoundoffF32 / (1 - n * kRoundoffF32);
      const double floor = kSmallestNormal * (lost_left[i] + lost_right[i] + 2 * terms[i]);
      want[i] = before[i] + runs * want[i];
      bound[i] = gamma * (std::abs(before[i]) + runs * size[i]) + runs * floor;
      if (spec_.out == DType::kBF16) {
        bound[i] += kRoundoffBF16 * (std::abs(want[i]) + bound[i]) + kHalfSubnormalBF16;
      }
    }
    return compare(name, m.out, want, bound);
  }

  Spec spec_;
  std::unique_ptr<Arena> scratch_;
  std::vector<Member> members_;
  std::vector<ops::Product> products_;
  std::vector<ops::WeightGradient> gradients_;
  int64_t runs_ = 0;
};

void add(OpCases& cases, const Spec& spec) {
  int64_t rows = 0;
  for (const int64_t M : spec.shape.tokens) rows += M;
  const auto groups = spec.shape.tokens.size();
  const auto work = static_cast<double>(rows * spec.shape.N * spec.shape.K);
  const std::string tokens =
      groups == 1 ? fmt::format("{}", rows) : fmt::format("{} in {}", rows, groups);
  OpCase out;
  out.op = spec.kind == Kind::kWgrad ? "matmul_wgrad" : "matmul";
  out.shape = fmt::format("{}x{}x{} {} {}", tokens, spec.shape.N, spec.shape.K,
                          short_name(spec.format), name_of(spec.kind));
  if (spec.source != spec.format) out.shape += fmt::format(" from {}", short_name(spec.source));
  if (spec.out != DType::kF32) out.shape += fmt::format(" to {}", short_name(spec.out));
  if (spec.accumulate) out.shape += " accumulated";
  if (spec.padding > 0) out.shape += fmt::format(" padded by {}", spec.padding);
  if (spec.deviation != 1) out.shape += fmt::format(" of size {}", spec.deviation);
  out.bench = spec.bench;
  const bool few_rows = rows <= 8;  // then reading the packed operand is what takes the time
  out.limit = few_rows                      ? Limit::kRead
              : spec.format == DType::kBF16 ? Limit::kComputeBF16
                                            : Limit::kComputeF32;
  out.work =
      few_rows
          ? static_cast<double>(ops::packed_bytes(spec.format, spec.shape.N, spec.shape.K) * groups)
          : 2 * work;
  out.make = [spec] { return std::make_unique<MatmulRun>(spec); };
  cases.push_back(std::move(out));
}

// Every remainder of rows, columns and the sum by the kernels' tiles; formats, groups, views.
void add_small(OpCases& cases) {
  for (const DType format : {DType::kF32, DType::kBF16}) {
    for (const Kind kind : {Kind::kFprop, Kind::kDgrad, Kind::kWgrad}) {
      const auto with = [&](Shape3 shape) {
        Spec spec;
        spec.kind = kind;
        spec.shape = std::move(shape);
        spec.format = spec.source = format;
        return spec;
      };
      for (int64_t i = 1; i <= 33; ++i) add(cases, with({{i}, 34 - i, 1 + (i * 7) % 36}));
      for (const int64_t size : {31, 32, 33, 63, 64, 65}) add(cases, with({{5}, size, 97 - size}));
      add(cases, with({{0}, 3, 5}));
      add(cases, with({{130}, 135, 37}));
      add(cases, with({{3}, 33, 4099}));  // more than one block of the sum
      add(cases, with({{4099}, 9, 2}));
      add(cases, with({{2}, 4099, 3}));
      const Shape3 group{{3, 0, 17, 1, 40, 0}, 35, 21};
      add(cases, with(group));
      for (const DType source : {DType::kF32, DType::kBF16}) {
        Spec spec = with(group);
        spec.padding = 3;
        spec.source = source;
        add(cases, spec);
        spec.accumulate = true;
        add(cases, spec);
        spec.accumulate = false;
        spec.out = DType::kBF16;
        if (kind != Kind::kWgrad) add(cases, spec);
      }
      Spec tiny = with({{7}, 33, 19});
      tiny.deviation = 1e-20;  // products are subnormal, or zero
      add(cases, tiny);
      tiny.deviation = 1e-39;  // operands are
      add(cases, tiny);
    }
  }
}

void add_bench(OpCases& cases, DType format, const Shape3& shape) {
  for (const Kind kind : {Kind::kFprop, Kind::kDgrad, Kind::kWgrad}) {
    Spec spec;
    spec.kind = kind;
    spec.shape = shape;
    spec.format = spec.source = format;
    spec.out = kind == Kind::kWgrad ? DType::kF32 : format;
    spec.accumulate = kind == Kind::kWgrad;
    spec.bench = true;
    add(cases, spec);
  }
}

}  // namespace

void add_matmul_cases(OpCases& cases) {
  add_small(cases);
  add_bench(cases, DType::kBF16, {{512}, 1408, 2048});
  add_bench(cases, DType::kF32, {{512}, 1408, 2048});
  // 64 experts with 32 to 192 tokens each: gate and up, then down.
  std::vector<int64_t> tokens;
  for (int64_t e = 0; e < 64; ++e) tokens.push_back(32 + e * 37 % 64 * 160 / 63);
  add_bench(cases, DType::kBF16, {tokens, 2 * 352, 1024});
  add_bench(cases, DType::kBF16, {tokens, 1024, 352});
  // A model of hidden size 256 (its experts, a dense layer), and one of 512.
  add_bench(cases, DType::kBF16, {std::vector<int64_t>(16, 256), 2 * 128, 256});
  add_bench(cases, DType::kBF16, {{1024}, 2 * 768, 256});
  add_bench(cases, DType::kBF16, {std::vector<int64_t>(64, 192), 2 * 176, 512});
  add_bench(cases, DType::kBF16, {{1024}, 2 * 1408, 512});
  for (const int64_t rows : {1, 4}) {
    Spec decode;
    decode.shape = {{rows}, 4096, 2048};
    decode.format = decode.source = decode.out = DType::kBF16;
    decode.bench = true;
    add(cases, decode);
  }
}

}  // namespace minke::study
