// Attention's derivative against a complex step of its forward, and the absorbed form against the
// expanded one.
#include "ref/attention.h"

#include "ref/complex_step.h"
#include "ref/rope.h"

namespace minke::ref {
namespace {

struct Inputs {
  explicit Inputs(const AttentionSizes& s)
      : q(random_doubles(static_cast<size_t>(s.tokens() * s.heads * (s.nope + s.rope)), "q")),
        kv(random_doubles(static_cast<size_t>(s.tokens() * s.heads * (s.nope + s.v)), "kv")),
        k_rope(random_doubles(static_cast<size_t>(s.tokens() * s.rope), "k_rope")),
        d_o(random_doubles(static_cast<size_t>(s.tokens() * s.heads * s.v), "d_o")) {}
  Doubles q, kv, k_rope, d_o;
};

void expect_derivative(const AttentionSizes& s) {
  const Inputs in(s);
  Doubles dq(in.q.size()), dkv(in.kv.size()), dk_rope(in.k_rope.size());
  attention_backward<double>(dq, dkv, dk_rope, in.d_o, in.q, in.kv, in.k_rope, s);
  const auto loss = [&](const Complexes& q, const Complexes& kv, const Complexes& k_rope) {
    Complexes o(in.d_o.size()), lse(static_cast<size_t>(s.heads * s.tokens()));
    attention<Complex>(o, lse, q, kv, k_rope, s);
    return dot(o, in.d_o);
  };
  const Complexes q = to_complex(in.q), kv = to_complex(in.kv), k_rope = to_complex(in.k_rope);
  const auto terms = static_cast<size_t>(s.positions * s.heads * (s.nope + s.rope + s.v));
  expect_gradient(dq, in.q, terms, [&](const Complexes& z) { return loss(z, kv, k_rope); });
  expect_gradient(dkv, in.kv, terms, [&](const Complexes& z) { return loss(q, z, k_rope); });
  expect_gradient(dk_rope, in.k_rope, terms, [&](const Complexes& z) { return loss(q, kv, z); });
}

TEST(RefAttention, BackwardIsTheDerivative) {
  expect_derivative(
      {.batch = 2, .positions = 5, .heads = 2, .nope = 3, .rope = 2, .v = 4, .scale = 0.7});
}

TEST(RefAttention, BackwardIsTheDerivativeWithDocumentsMasked) {
  const std::vector<int32_t> first{0, 0, 2, 2, 4, 0, 1, 1, 1, 1};
  expect_derivative({.batch = 2,
                     .positions = 5,
                     .heads = 2,
                     .nope = 3,
                     .rope = 2,
                     .v = 3,
                     .scale = 0.7,
                     .first = first});
}

// A masked document is a sequence of its own.
TEST(RefAttention, DocumentsDoNotSeeEachOther) {
  const std::vector<int32_t> first{0, 0, 2, 2};
  AttentionSizes s{.batch = 1,
                   .positions = 4,
                   .heads = 1,
                   .nope = 2,
                   .rope = 2,
                   .v = 3,
                   .scale = 0.5,
                   .first = first};
  const Inputs in(s);
  Doubles masked(in.d_o.size()), apart(in.d_o.size()), lse(4), lse_apart(4);
  attention<double>(masked, lse, in.q, in.kv, in.k_rope, s);
  s.batch = 2;
  s.positions = 2;
  s.first = {};
  attention<double>(apart, lse_apart, in.q, in.kv, in.k_rope, s);
  EXPECT_EQ(masked, apart);
  EXPECT_EQ(lse, lse_apart);
}

// With W_UK = W_UV = 1 the latent is the key and the value of every head.
TEST(RefAttention, AbsorbedIsExpanded) {
  constexpr int64_t kS = 5, kHeads = 3, kRank = 4, kRope = 2;
  const AttentionSizes s{.batch = 1,
                         .positions = kS,
                         .heads = kHeads,
                         .nope = kRank,
                         .rope = kRope,
                         .v = kRank,
                         .scale = 0.6};
  const Doubles q = random_doubles(kS * kHeads * (kRank + kRope), "q"),
                cache = random_doubles(kS * (kRank + kRope), "cache");
  Doubles kv, k_rope;
  for (size_t t = 0; t < kS; ++t) {
    const auto token = cache.begin() + static_cast<int64_t>(t) * (kRank + kRope);
    for (int i = 0; i < 2 * kHeads; ++i) kv.insert(kv.end(), token, token + kRank);
    k_rope.insert(k_rope.end(), token + kRank, token + kRank + kRope);
  }
  Doubles o(kS * kHeads * kRank), lse(kHeads * kS);
  attention<double>(o, lse, q, kv, k_rope, s);
  for (size_t t = 0; t < kS; ++t) {
    Doubles row(kHeads * kRank);
    latent_attention<double>(row, std::span(q).subspan(t * kHeads * (kRank + kRope)), cache,
                             static_cast<int64_t>(t) + 1, kHeads, kRank, kRope, s.scale);
    for (size_t i = 0; i < row.size(); ++i) {
      EXPECT_NEAR(row[i], o[t * row.size() + i], 1e-14);
    }
  }
}

TEST(RefRope, InverseIsTheTranspose) {
  constexpr int64_t kT = 3, kHeads = 2, kWidth = 7, kOffset = 2, kHalf = 2;
  const std::vector<int32_t> positions{2, 0, 1};
  const Doubles cos = random_doubles(3 * kHalf, "cos"), sin = random_doubles(3 * kHalf, "sin"),
                x = random_doubles(kT * kHeads * kWidth, "x"), dy = random_doubles(x.size(), "dy");
  Doubles dx(x.size());
  rope<double>(dx, dy, cos, sin, positions, kT, kHeads, kWidth, kOffset, kHalf, true);
  expect_gradient(dx, x, 2, [&](const Complexes& z) {
    Complexes y(x.size());
    rope<Complex>(y, z, cos, sin, positions, kT, kHeads, kWidth, kOffset, kHalf, false);
    return dot(y, dy);
  });
}

}  // namespace
}  // namespace minke::ref
