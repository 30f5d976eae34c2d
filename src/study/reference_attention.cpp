// Rope and attention of the tape. Attention is written out here, rather than taken from `ref`,
// because an engine of lower precision rounds inside it: see Tape::attention.
#include <algorithm>
#include <cmath>

#include "ref/rope.h"
#include "study/reference_tape.h"

namespace minke::study {
namespace {

using Numbers = std::vector<double>;

// The scores and values of one head at one position, and where its numbers lie.
struct Head {
  const ReferenceAttention& shape;
  int64_t t, h;  // token of all, head

  int64_t first() const {
    const int64_t start = t / shape.positions * shape.positions;
    return start + (shape.first.empty() ? 0 : shape.first[t]);
  }
  int64_t q(int64_t i) const { return (t * shape.heads + h) * (shape.nope + shape.rope) + i; }
  int64_t k(int64_t j, int64_t i) const {
    return (j * shape.heads + h) * (shape.nope + shape.v) + i;
  }
  int64_t v(int64_t j, int64_t i) const { return k(j, shape.nope + i); }
  int64_t o(int64_t i) const { return (t * shape.heads + h) * shape.v + i; }

  // Softmax of scale * (q . k) over [first(), t].
  Numbers probabilities(const Numbers& query, const Numbers& kv, const Numbers& k_rope) const {
    Numbers p;
    for (int64_t j = first(); j <= t; ++j) {
      double score = 0;
      for (int64_t i = 0; i < shape.nope; ++i) score += query[q(i)] * kv[k(j, i)];
      for (int64_t i = 0; i < shape.rope; ++i) {
        score += query[q(shape.nope + i)] * k_rope[j * shape.rope + i];
      }
      p.push_back(score * shape.scale);
    }
    const double top = *std::ranges::max_element(p);
    double sum = 0;
    for (double& x : p) sum += x = std::exp(x - top);
    for (double& x : p) x /= sum;
    return p;
  }
};

template <typename Visit>
void for_each_head(const ReferenceAttention& shape, Visit&& visit) {
  for (int64_t t = 0; t < shape.batch * shape.positions; ++t) {
    for (int64_t h = 0; h < shape.heads; ++h) visit(Head{shape, t, h});
  }
}

struct AttentionVars {
  Tape::Var q, kv, k_rope, o;
};

void attend(const Head& head, const AttentionVars& x, const Rounding& rounding) {
  const Numbers p = head.probabilities(x.q->value, x.kv->value, x.k_rope->value);
  for (size_t n = 0; n < p.size(); ++n) {
    const double weight = rounding(p[n]);
    for (int64_t i = 0; i < head.shape.v; ++i) {
      x.o->value[head.o(i)] += weight * x.kv->value[head.v(head.first() + n, i)];
    }
  }
}

// dp = d_o . v;  ds = p (dp - sum_j p_j dp_j), where the sum is d_o . o with o as it was stored.
void attend_backward(const Head& head, const AttentionVars& x, const Numbers& stored_o,
                     const Rounding& rounding) {
  const ReferenceAttention& shape = head.shape;
  const Numbers p = head.probabilities(x.q->value, x.kv->value, x.k_rope->value);
  double delta = 0;
  for (int64_t i = 0; i < shape.v; ++i) {
    delta += x.o->gradient[head.o(i)] * stored_o[head.o(i)];
  }
  for (size_t n = 0; n < p.size(); ++n) {
    const int64_t j = head.first() + static_cast<int64_t>(n);
    const double weight = rounding(p[n]);
    double dp = 0;
    for (int64_t i = 0; i < shape.v; ++i) {
      dp += x.o->gradient[head.o(i)] * x.kv->value[head.v(j, i)];
      x.kv->gradient[head.v(j, i)] += weight * x.o->gradient[head.o(i)];
    }
    const double ds = rounding(p[n] * (dp - delta) * shape.scale);
    for (int64_t i = 0; i < shape.nope; ++i) {
      x.q->gradient[head.q(i)] += ds * x.kv->value[head.k(j, i)];
      x.kv->gradient[head.k(j, i)] += ds * x.q->value[head.q(i)];
    }
    for (int64_t i = 0; i < shape.rope; ++i) {
      const int64_t q = head.q(shape.nope + i), k = j * shape.rope + i;
      x.q->gradient[q] += ds * x.k_rope->value[k];
      x.k_rope->gradient[k] += ds * x.q->value[q];
    }
  }
}

}  // namespace

Tape::Var Tape::rope(Var x, const Rope& how) {
  const int64_t rows = std::ssize(x->value) / (how.heads * how.width);
  const auto turn = [=](Numbers& to, const Numbers& from, bool inverse) {
    ref::rope<double>(to, from, how.cos, how.sin, how.position, rows, how.heads, how.width,
                      how.offset, how.rope / 2, inverse);
  };
  const Var y = make(x->value.size());
  turn(y->value, x->value, false);
  remember([=] {
    Numbers dx(y->gradient.size());
    turn(dx, y->gradient, true);
    for (size_t i = 0; i < dx.size(); ++i) x->gradient[i] += dx[i];
  });
  return y;
}

Tape::Var Tape::attention(Var q, Var kv, Var k_rope, const ReferenceAttention& shape) {
  const Var o = make(shape.batch * shape.positions * shape.heads * shape.v);
  const AttentionVars vars{q, kv, k_rope, o};
  for_each_head(shape, [&](const Head& head) { attend(head, vars, rounding_); });
  remember([=, rounding = rounding_] {
    Numbers stored = o->value;
    std::ranges::transform(stored, stored.begin(), rounding);
    for_each_head(shape, [&](const Head& head) { attend_backward(head, vars, stored, rounding); });
  });
  return rounded(o, Store::kBoth);
}

}  // namespace minke::study
