// Cases of attention and its backward, and of latent_attention.
//
// Bounds, to first order in u = 2^-24 (FP32) and b = 2^-8 (BF16, where numbers are rounded to it; 0
// for FP32); kSecondOrder covers the rest. d = nope + rope or rank + rope, n = keys that are seen.
//
// Score: d products in one running sum, a rounding each and one of the product where there is no
// FMA: (d + 1) u scale sum |q k|.
// e^(score - top): the score's error; u |score - top| from the argument; 4 u from exp (2 units in
// the last place). Its later factors, one a block of keys, bring 6 u each and together u times the
// distance between the first top and the last. With W = largest - smallest score and at most
// n / 32 + 4 factors (no block is less than a panel of 32 keys, and parts of a cache are joined
// once), e is off by at most
//   E = max (d + 1) u scale sum |q k| + 2 u W + (6 (n / 32 + 4) + 4) u   of itself.
// lse: E and n u of the sum, 2 u of its logarithm, u of the last addition.
// o: E twice (p and their sum), n u for either sum, b for p beside BF16 values:
//   (2 E + (2 n + n / 32 + 8) u + b) sum p |v|, then the output's rounding.
//
// Backward takes o and lse from the forward that is tested; how far they are from the exact ones is
// known and added: |dlse|, and |ddelta| = |sum d_o (o - exact o)|.
// p: E' = max (d + 1) u scale sum |q k| + u max |score - lse| + 5 u + |dlse| of itself.
// ds = p (dp - delta) scale: (E' + 4 u + b) |ds| + p scale ((v + 1) u sum (|d_o v| + |d_o o|) +
//   |ddelta|).
// dq, dk, dv: sums of at most S products (S + S / 32 + 4 roundings, and one more a head for
//   dk_rope) of ds, or of p off by E' + b, then the output's rounding.
#include <fmt/format.h>

#include <cmath>

#include "base/rng.h"
#include "ops/attention.h"
#include "ref/attention.h"
#include "study/compare.h"

namespace minke::study {
namespace {

using Doubles = std::vector<double>;
using Ids = std::vector<int32_t>;
constexpr double kU = kRoundoffF32;
// VDPBF16PS takes subnormal numbers as zero; so many are not in a sum of these cases.
constexpr double kFloor = 0x1p-110;

double bf16_roundoff(DType dtype) { return dtype == DType::kBF16 ? kRoundoffBF16 : 0; }
double factors(int64_t keys) { return static_cast<double>(keys) / 32 + 4; }

Doubles finish_bound(Doubles bound, const Doubles& want, DType dtype) {
  for (size_t i = 0; i < bound.size(); ++i) {
    bound[i] = kSecondOrder * (bound[i] + roundoff(dtype) * std::abs(want[i])) + kFloor;
  }
  return bound;
}

// The scores of a query, and of the magnitudes of what they are made from.
struct Scores {
  Doubles score, size;
  int64_t d;

  double largest_size_error() const {
    return static_cast<double>(d + 1) * kU * *std::ranges::max_element(size);
  }
  // E of the head of this file.
  double error() const {
    const auto [low, high] = std::ranges::minmax(score);
    return largest_size_error() + 2 * kU * (high - low) + (6 * factors(std::ssize(score)) + 4) * kU;
  }
  double o_factor(DType dtype) const {
    const auto n = static_cast<double>(score.size());
    return 2 * error() + (2 * n + factors(std::ssize(score)) + 4) * kU + bf16_roundoff(dtype);
  }
};

struct Spec {
  int64_t batch = 1, positions = 1, heads = 1, nope = 1, rope = 2, v = 1;
  DType dtype = DType::kF32;
  bool documents = false;  // masked from each other
  double deviation = 1;
  bool bench = false;

  int64_t tokens() const { return batch * positions; }
  int64_t d() const { return nope + rope; }
};

// Documents of 1, 2, 4, ... tokens, in every sequence from another length on.
Ids document_starts(const Spec& spec) {
  Ids first;
  for (int64_t b = 0; b < spec.batch && spec.documents; ++b) {
    int64_t start = 0, length = 1 + b % 3;
    for (int64_t s = 0; s < spec.positions; ++s) {
      if (s == start + length) {
        start = s;
        length = length > 100 ? 1 : 2 * length;
      }
      first.push_back(static_cast<int32_t>(start));
    }
  }
  return first;
}

// Inputs of attention, its forward and what the reference makes of it.
class AttentionInputs {
 public:
  explicit AttentionInputs(const Spec& of)
      : spec(of),
        first(document_starts(spec)),
        q(random_tensor("q", spec.dtype, {spec.tokens(), spec.heads * spec.d()}, spec.deviation)),
        kv(random_tensor("kv", spec.dtype, {spec.tokens(), spec.heads * (spec.nope + spec.v)})),
        k_rope(random_tensor("k_rope", spec.dtype, {spec.tokens(), spec.rope})),
        o(spec.dtype, {spec.tokens(), spec.heads * spec.v}),
        lse(DType::kF32, {spec.heads, spec.tokens()}),
        scratch(size_t{1} << 28) {}

  float scale() const { return 1 / std::sqrt(static_cast<float>(spec.d())); }
  ops::AttentionShape shape() const {
    return {spec.batch, spec.positions, spec.heads, spec.nope, spec.rope, spec.v, scale(), first};
  }
  ref::AttentionSizes sizes() const {
    return {spec.batch,
            spec.positions,
            spec.heads,
            spec.nope,
            spec.rope,
            spec.v,
            static_cast<double>(scale()),
            first};
  }
  void forward() { ops::attention(o, lse, q, kv, k_rope, shape(), scratch); }

  Spec spec;
  Ids first;
  OwnedTensor q, kv, k_rope, o, lse;
  Arena scratch;
};

// The same in float64, with the exact forward.
struct ExactAttention {
  explicit ExactAttention(const AttentionInputs& in)
      : sizes(in.sizes()),
        q(to_double(in.q)),
        kv(to_double(in.kv)),
        k_rope(to_double(in.k_rope)),
        q_size(magnitudes(q)),
        kv_size(magnitudes(kv)),
        k_rope_size(magnitudes(k_rope)),
        o(static_cast<size_t>(in.o.count())),
        lse(static_cast<size_t>(in.lse.count())) {
    ref::attention<double>(o, lse, q, kv, k_rope, sizes);
  }
  Scores scores(int64_t t, int64_t h) const {
    return {ref::attention_scores<double>(q, kv, k_rope, sizes, t, h),
            ref::attention_scores<double>(q_size, kv_size, k_rope_size, sizes, t, h),
            sizes.nope + sizes.rope};
  }
  int64_t value(int64_t key, int64_t h) const {
    return (key * sizes.heads + h) * (sizes.nope + sizes.v) + sizes.nope;
  }

  ref::AttentionSizes sizes;
  Doubles q, kv, k_rope, q_size, kv_size, k_rope_size, o, lse;
};

class AttentionRun final : public OpRun {
 public:
  explicit AttentionRun(const Spec& spec) : in_(spec) {}
  void run() override { in_.forward(); }
  std::vector<Tensor> outputs() override { return {in_.o, in_.lse}; }
  std::vector<Check> check() override {
    const ExactAttention exact(in_);
    const auto& s = exact.sizes;
    Doubles o_bound(exact.o.size()), lse_bound(exact.lse.size());
    for (int64_t t = 0; t < s.tokens(); ++t) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const Scores scores = exact.scores(t, h);
        const auto n = static_cast<double>(scores.score.size());
        const double lse = exact.lse[h * s.tokens() + t];
        lse_bound[h * s.tokens() + t] =
            kSecondOrder * (scores.error() + n * kU + 2 * kU * std::log(n) + kU * std::abs(lse));
        for (size_t j = 0; j < scores.score.size(); ++j) {
          const double p = std::exp(scores.score[j] - lse) * scores.o_factor(in_.spec.dtype);
          const int64_t value = exact.value(s.first_token(t) + static_cast<int64_t>(j), h);
          for (int64_t i = 0; i < s.v; ++i) {
            o_bound[(t * s.heads + h) * s.v + i] += p * exact.kv_size[value + i];
          }
        }
      }
    }
    return {compare("o", in_.o, exact.o, finish_bound(o_bound, exact.o, in_.spec.dtype)),
            compare("lse", in_.lse, exact.lse, lse_bound)};
  }

 private:
  AttentionInputs in_;
};

class AttentionBackwardRun final : public OpRun {
 public:
  explicit AttentionBackwardRun(const Spec& spec)
      : in_(spec),
        d_o_(random_tensor("d_o", spec.dtype, in_.o.shape())),
        dq_(spec.dtype, in_.q.shape()),
        dkv_(spec.dtype, in_.kv.shape()),
        dk_rope_(spec.dtype, in_.k_rope.shape()) {
    in_.forward();
  }
  void run() override {
    ops::attention_backward(dq_, dkv_, dk_rope_, d_o_, in_.o, in_.lse, in_.q, in_.kv, in_.k_rope,
                            in_.shape(), in_.scratch);
  }
  std::vector<Tensor> outputs() override { return {dq_, dkv_, dk_rope_}; }
  std::vector<Check> check() override {
    const ExactAttention exact(in_);
    const Doubles d_o = to_double(d_o_), o = to_double(in_.o), lse = to_double(in_.lse);
    Gradients want(exact), bound(exact);
    ref::attention_backward<double>(want.q, want.kv, want.k_rope, d_o, exact.q, exact.kv,
                                    exact.k_rope, exact.sizes);
    for (int64_t t = 0; t < exact.sizes.tokens(); ++t) {
      for (int64_t h = 0; h < exact.sizes.heads; ++h) add_bounds(bound, exact, d_o, o, lse, t, h);
    }
    const DType dtype = in_.spec.dtype;
    return {
        compare("dq", dq_, want.q, finish_bound(bound.q, want.q, dtype)),
        compare("dkv", dkv_, want.kv, finish_bound(bound.kv, want.kv, dtype)),
        compare("dk_rope", dk_rope_, want.k_rope, finish_bound(bound.k_rope, want.k_rope, dtype))};
  }

 private:
  struct Gradients {
    explicit Gradients(const ExactAttention& exact)
        : q(exact.q.size()), kv(exact.kv.size()), k_rope(exact.k_rope.size()) {}
    Doubles q, kv, k_rope;
  };

  void add_bounds(Gradients& bound, const ExactAttention& exact, const Doubles& d_o,
                  const Doubles& o, const Doubles& lse, int64_t t, int64_t h) const {
    const auto& s = exact.sizes;
    const Scores scores = exact.scores(t, h);
    const double b = bf16_roundoff(in_.spec.dtype), exact_lse = exact.lse[h * s.tokens() + t];
    double farthest = 0, delta = 0, delta_size = 0, delta_error = 0;
    for (const double x : scores.score) farthest = std::max(farthest, std::abs(x - exact_lse));
    const int64_t at = (t * s.heads + h) * s.v, d = s.nope + s.rope, q = (t * s.heads + h) * d;
    for (int64_t i = 0; i < s.v; ++i) {
      delta += d_o[at + i] * exact.o[at + i];
      delta_size += std::abs(d_o[at + i] * o[at + i]);
      delta_error += d_o[at + i] * (o[at + i] - exact.o[at + i]);
    }
    const double p_error = scores.largest_size_error() + (farthest + 5) * kU +
                           std::abs(lse[h * s.tokens() + t] - exact_lse);
    const double roundings = (static_cast<double>(s.positions) + factors(s.positions)) * kU;
    for (size_t j = 0; j < scores.score.size(); ++j) {
      const int64_t key = s.first_token(t) + static_cast<int64_t>(j), value = exact.value(key, h);
      const double p = std::exp(scores.score[j] - exact_lse);
      double dp = 0, dp_size = 0;
      for (int64_t i = 0; i < s.v; ++i) {
        const double product = d_o[at + i] * exact.kv[value + i];
        dp += product;
        dp_size += std::abs(product);
        bound.kv[value + i] += p * (p_error + b + roundings) * std::abs(d_o[at + i]);
      }
      const double ds = std::abs(p * (dp - delta) * s.scale);
      const double through_dp =
          static_cast<double>(s.v + 1) * kU * (dp_size + delta_size) + std::abs(delta_error);
      const double error = ds * (p_error + 4 * kU + b) + p * s.scale * through_dp;
      for (int64_t i = 0; i < d; ++i) {
        const bool nope = i < s.nope;
        const double heads = nope ? 0 : static_cast<double>(s.heads) * kU;
        const double k =
            nope ? exact.kv_size[value - s.nope + i] : exact.k_rope_size[key * s.rope + i - s.nope];
        bound.q[q + i] += (error + roundings * ds) * k;
        (nope ? bound.kv[value - s.nope + i] : bound.k_rope[key * s.rope + i - s.nope]) +=
            (error + (roundings + heads) * ds) * exact.q_size[q + i];
      }
    }
  }

  AttentionInputs in_;
  OwnedTensor d_o_, dq_, dkv_, dk_rope_;
};

struct LatentSpec {
  std::vector<int64_t> lengths;  // of the rows
  int64_t heads = 1, rank = 1, rope = 2;
  DType dtype = DType::kF32;
  bool one_cache = false;  // the rows are of one sequence
  bool bench = false;
};

class LatentAttentionRun final : public OpRun {
 public:
  explicit LatentAttentionRun(const LatentSpec& spec)
      : spec_(spec),
        width_(spec.rank + spec.rope),
        q_(random_tensor("q", spec.dtype, {rows(), spec.heads * width_})),
        o_(spec.dtype, {rows(), spec.heads * spec.rank}),
        scratch_(size_t{1} << 28) {
    const int64_t longest = *std::ranges::max_element(spec.lengths);
    for (int64_t m = 0; m < (spec.one_cache ? 1 : rows()); ++m) {
      caches_.push_back(random_tensor(fmt::format("cache {}", m), spec.dtype, {longest, width_}));
    }
    for (int64_t m = 0; m < rows(); ++m) {
      rows_.push_back({cache(m).raw(), spec.lengths[static_cast<size_t>(m)]});
    }
  }
  void run() override {
    ops::latent_attention(o_, q_, rows_, spec_.heads, spec_.rank, spec_.rope, scale(), scratch_);
  }
  std::vector<Tensor> outputs() override { return {o_}; }
  std::vector<Check> check() override {
    Doubles want, bound;
    for (int64_t m = 0; m < rows(); ++m) check_row(want, bound, m);
    return {compare("o", o_, want, finish_bound(bound, want, spec_.dtype))};
  }

 private:
  int64_t rows() const { return std::ssize(spec_.lengths); }
  const Tensor& cache(int64_t m) const {
    return caches_[spec_.one_cache ? 0 : static_cast<size_t>(m)];
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(width_)); }

  void check_row(Doubles& want, Doubles& bound, int64_t m) const {
    const int64_t length = spec_.lengths[static_cast<size_t>(m)];
    const Doubles q = to_double(q_.rows(m, 1)), latent = to_double(cache(m));
    Doubles o(static_cast<size_t>(spec_.heads * spec_.rank));
    ref::latent_attention<double>(o, q, latent, length, spec_.heads, spec_.rank, spec_.rope,
                                  static_cast<double>(scale()));
    want.insert(want.end(), o.begin(), o.end());
    for (int64_t h = 0; h < spec_.heads; ++h) {
      Scores scores{Doubles(static_cast<size_t>(length)), Doubles(static_cast<size_t>(length)),
                    width_};
      for (int64_t j = 0; j < length; ++j) {
        for (int64_t i = 0; i < width_; ++i) {
          const double product =
              static_cast<double>(scale()) * q[h * width_ + i] * latent[j * width_ + i];
          scores.score[j] += product;
          scores.size[j] += std::abs(product);
        }
      }
      const double lse = ref::log_sum_exp<double>(scores.score);
      Doubles size(static_cast<size_t>(spec_.rank));
      for (int64_t j = 0; j < length; ++j) {
        const double p = std::exp(scores.score[j] - lse);
        for (int64_t i = 0; i < spec_.rank; ++i) size[i] += p * std::abs(latent[j * width_ + i]);
      }
      for (const double v : size) bound.push_back(scores.o_factor(spec_.dtype) * v);
    }
  }

  LatentSpec spec_;
  int64_t width_;
  std::vector<OwnedTensor> caches_;
  std::vector<ops::LatentRow> rows_;
  OwnedTensor q_, o_;
  Arena scratch_;
};

void add_attention(OpCases& cases, const Spec& spec) {
  // A multiply-add is two, and only what a query sees counts (without documents).
  const auto seen = static_cast<double>(spec.batch * spec.heads * spec.positions) *
                    static_cast<double>(spec.positions + 1) / 2;
  std::string shape = fmt::format("{}x{} {}x{}+{}/{} {}", spec.batch, spec.positions, spec.heads,
                                  spec.nope, spec.rope, spec.v, short_name(spec.dtype));
  if (spec.documents) shape += " documents";
  if (spec.deviation != 1) shape += fmt::format(" of size {}", spec.deviation);
  const Limit limit = spec.dtype == DType::kBF16 ? Limit::kComputeBF16 : Limit::kComputeF32;
  cases.push_back({.op = "attention",
                   .shape = shape,
                   .limit = limit,
                   .work = 2 * seen * static_cast<double>(spec.d() + spec.v),
                   .bench = spec.bench,
                   .make = [spec] { return std::make_unique<AttentionRun>(spec); }});
  cases.push_back({.op = "attention_backward",
                   .shape = shape,
                   .limit = limit,
                   .work = 2 * seen * static_cast<double>(3 * spec.d() + 2 * spec.v),
                   .bench = spec.bench,
                   .make = [spec] { return std::make_unique<AttentionBackwardRun>(spec); }});
}

void add_latent(OpCases& cases, const LatentSpec& spec) {
  double tokens = 0;
  for (const int64_t length : spec.lengths) tokens += static_cast<double>(length);
  cases.push_back({.op = "latent_attention",
                   .shape = fmt::format("{} rows of {} {}x{}+{} {}{}", spec.lengths.size(),
                                        spec.lengths.back(), spec.heads, spec.rank, spec.rope,
                                        short_name(spec.dtype), spec.one_cache ? " one cache" : ""),
                   .limit = Limit::kRead,
                   .work = tokens * static_cast<double>(spec.rank + spec.rope) *
                           static_cast<double>(size_of(spec.dtype)),
                   .bench = spec.bench,
                   .make = [spec] { return std::make_unique<LatentAttentionRun>(spec); }});
}

}  // namespace

void add_attention_cases(OpCases& cases) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool documents : {false, true}) {
      for (Spec spec : {Spec{1, 1, 1, 1, 2, 1}, Spec{2, 3, 1, 9, 6, 7}, Spec{3, 37, 3, 9, 6, 7},
                        Spec{2, 70, 2, 5, 4, 33}, Spec{1, 129, 2, 16, 8, 35},
                        Spec{1, 300, 1, 33, 2, 1}, Spec{1, 64, 1, 30, 34, 64}}) {
        spec.dtype = dtype;
        spec.documents = documents;
        add_attention(cases, spec);
        spec.deviation = 8;  // a few keys have it all
        add_attention(cases, spec);
      }
    }
    for (const bool one_cache : {false, true}) {
      add_latent(cases, {{1}, 1, 1, 2, dtype, one_cache});
      add_latent(cases, {{31, 32, 33, 1, 64}, 3, 9, 6, dtype, one_cache});
      add_latent(cases, {{128, 129, 255, 256, 257, 600}, 2, 33, 4, dtype, one_cache});
    }
    add_latent(cases, {std::vector<int64_t>(20, 3), 5, 32, 8, dtype, true});
    add_latent(cases, {{150}, 130, 16, 4, dtype, false});
  }
  const auto bench = [&](int64_t batch, int64_t positions, int64_t heads, int64_t nope,
                         int64_t rope, int64_t v) {
    add_attention(cases, {batch, positions, heads, nope, rope, v, DType::kBF16, false, 1, true});
  };
  bench(1, 2048, 16, 128, 64, 128);
  bench(8, 256, 8, 32, 16, 32);
  bench(4, 512, 8, 64, 32, 64);
  for (const int64_t rows : {1, 4}) {
    const std::vector<int64_t> lengths(static_cast<size_t>(rows), 4096);
    add_latent(cases, {lengths, 16, 512, 64, DType::kBF16, false, true});
    add_latent(cases, {lengths, 8, 128, 32, DType::kBF16, false, true});
  }
}

}  // namespace minke::study
