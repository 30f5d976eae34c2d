// Cases of rope.
#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "ops/rope.h"
#include "ref/rope.h"
#include "study/compare.h"

namespace minke::study {
namespace {

using Doubles = std::vector<double>;

struct RopeSpec {
  int64_t rows, heads, width, offset, half;
  DType dtype = DType::kF32;
  bool inverse = false, in_place = false;
};

class RopeRun final : public OpRun {
 public:
  explicit RopeRun(const RopeSpec& spec)
      : spec_(spec),
        cos_(random_tensor("cos", DType::kF32, {kPositions, spec.half})),
        sin_(random_tensor("sin", DType::kF32, {kPositions, spec.half})),
        src_(PaddedMatrix::random("x", spec.dtype, spec.rows, spec.heads * spec.width, 3)),
        dst_(PaddedMatrix::random("y", spec.dtype, spec.rows, spec.heads * spec.width, 3)),
        before_(to_double(spec.in_place ? src_ : dst_)) {
    for (int64_t r = 0; r < spec.rows; ++r) {
      positions_.push_back(static_cast<int32_t>(r * 7 % kPositions));
    }
  }
  void run() override {
    if (spec_.in_place) {
      std::memcpy(dst_.memory().raw(), src_.memory().raw(), dst_.memory().bytes());
    }
    ops::rope(dst_, spec_.in_place ? dst_ : src_,
              {spec_.heads, spec_.width, spec_.offset, cos_, sin_, positions_, spec_.inverse});
  }
  std::vector<Tensor> outputs() override { return {dst_.memory()}; }
  // Two products and their sum: at most two roundings meet either product; then the output's.
  // What is not rotated keeps what was there.
  std::vector<Check> check() override {
    const Doubles x = to_double(src_), cos = to_double(cos_), sin = to_double(sin_);
    Doubles want(x.size()), size(x.size());
    const auto rope = [&](Doubles& y, const Doubles& in, const Doubles& c, const Doubles& s,
                          bool inverse) {
      ref::rope<double>(y, in, c, s, positions_, spec_.rows, spec_.heads, spec_.width, spec_.offset,
                        spec_.half, inverse);
    };
    rope(want, x, cos, sin, spec_.inverse);
    // Magnitudes only add where the sine's sign is theirs: both directions, the larger counts.
    Doubles other(x.size());
    rope(size, magnitudes(x), magnitudes(cos), magnitudes(sin), false);
    rope(other, magnitudes(x), magnitudes(cos), magnitudes(sin), true);
    Doubles bound(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const auto column = static_cast<int64_t>(i) % spec_.width - spec_.offset;
      const bool rotated = column >= 0 && column < 2 * spec_.half;
      if (!rotated) want[i] = before_[i];
      bound[i] = rotated ? 2 * kRoundoffF32 * std::max(size[i], other[i]) : 0;
      if (rotated) bound[i] = kSecondOrder * (bound[i] + roundoff(spec_.dtype) * std::abs(want[i]));
    }
    return {compare("y", ops::Matrix(dst_), want, bound), dst_.padding_check("y")};
  }

 private:
  static constexpr int64_t kPositions = 50;
  RopeSpec spec_;
  OwnedTensor cos_, sin_;
  PaddedMatrix src_, dst_;
  Doubles before_;
  std::vector<int32_t> positions_;
};

void add_rope(OpCases& cases, const RopeSpec& spec) {
  cases.push_back(
      {.op = "rope",
       .shape = fmt::format("{}x{}x{}+{} {}{}{}", spec.rows, spec.heads, spec.offset, 2 * spec.half,
                            short_name(spec.dtype), spec.inverse ? " inverse" : "",
                            spec.in_place ? " in place" : ""),
       .limit = Limit::kMemory,
       .work = static_cast<double>(spec.rows * spec.heads * 4 * spec.half) *
               static_cast<double>(size_of(spec.dtype)),
       .make = [spec] { return std::make_unique<RopeRun>(spec); }});
}

}  // namespace

void add_rope_cases(OpCases& cases) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool inverse : {false, true}) {
      for (const bool in_place : {false, true}) {
        add_rope(cases, {5, 3, 15, 9, 3, dtype, inverse, in_place});
        add_rope(cases, {67, 1, 64, 0, 32, dtype, inverse, in_place});
        add_rope(cases, {3, 2, 150, 1, 74, dtype, inverse, in_place});
      }
    }
  }
}

}  // namespace minke::study
