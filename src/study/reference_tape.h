// The float64 reference's tape: every call computes a value with `ref` and remembers how its
// gradient goes back, so the backward of a composition is never written by hand.
//
// It can also put a worst-case rounding where a lower precision rounds: see Rounding.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "ref/router.h"

namespace minke::study {

// Replaces the rounding of a number to a format with `bits` significant bits (8 of BF16) by its
// worst magnitude with a random sign: x becomes x (1 +- size). As in a real rounding, numbers that
// the format holds stay as they are, and numbers that lie between a number of the format and the
// middle to the next get errors of one sign: so repeated tokens, and channels that hardly differ
// between tokens, do not average errors away that they share. A size of 0 leaves everything as it
// is.
struct Rounding {
  double size = 0;
  uint64_t seed = 0;
  int bits = 8;
  bool fp8 = false;  // products of linear layers are in E4M3, see Tape::fp8_linear

  bool is_f32() const { return bits == 24; }
  double operator()(double x) const;
};

// Sizes of attention, and what a token sees (see ops::AttentionShape). Spans outlive the tape.
struct ReferenceAttention {
  int64_t batch = 0, positions = 0, heads = 0, nope = 0, rope = 0, v = 0;
  double scale = 1;
  std::span<const int32_t> first;  // by token; empty: nothing is masked
};

class Tape {
 public:
  struct Node {
    std::vector<double> value, gradient;
    std::vector<double> again;  // what a backward computes again from less; empty: the value
  };
  using Var = Node*;  // lives as long as the tape

  // without_gradients: backward() is not going to be called, so nothing is remembered for it.
  Tape(Rounding rounding, bool with_gradients)
      : rounding_(rounding), with_gradients_(with_gradients) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  const Rounding& rounding() const { return rounding_; }
  // Adds the gradients of `of` (one number) to those of everything it was computed from.
  void backward(Var of);

  Var leaf(std::vector<double> value);

  // What becomes of a number where it is stored: rounded as a value, as a gradient, or both. With
  // `part`, only those columns of rows of `width` are stored again.
  enum class Store { kValue, kGradient, kBoth };
  struct Part {
    int64_t width = 1, begin = 0, count = 1;
  };
  Var rounded(Var x, Store what);
  Var rounded(Var x, Store what, Part part);

  // Shapes as in ref/. Rows come first; T is read off the sizes.
  Var linear(Var x, Var w, int64_t N, int64_t K);  // x [T, K], w [N, K]
  // The same with all operands in E4M3 (docs/NUMERICS.md): each product reads its numbers with a
  // worst-case error of that format, 2^-4 of the number or 2^-10 of the scale of its tile. The
  // three products quantise anew, in tiles of their own.
  Var fp8_linear(Var x, Var w, int64_t N, int64_t K);
  // The backward of it reads gate_up in E4M3, and gives `again` the output that this makes.
  Var fp8_swiglu(Var gate_up, Var weight, int64_t F);
  // Rounded to E5M6: 7 significant bits.
  Var fp8_rounded_e5m6(Var x);
  Var rms_norm(Var x, Var w, int64_t D, double eps);
  Var swiglu(Var gate_up, Var weight, int64_t F);  // weight may be null
  Var add(Var x, Var y);
  Var gather_rows(Var x, std::vector<int32_t> rows, int64_t D);
  Var combine_rows(Var x, std::vector<int32_t> row, int64_t K, int64_t D);
  Var columns(Var x, int64_t width, int64_t begin, int64_t count);
  Var beside(Var x, int64_t x_width, Var y, int64_t y_width);  // [x ; y] in each row
  Var stack(const std::vector<Var>& rows);                     // one below the other
  // Rotates columns [offset, offset + rope) of each of `heads` heads of `width` numbers; cos, sin
  // [positions, rope / 2]; `position` of each row. Spans outlive the tape.
  struct Rope {
    int64_t heads = 1, width = 0, offset = 0, rope = 0;
    std::span<const double> cos, sin;
    std::span<const int32_t> position;
  };
  Var rope(Var x, const Rope& how);
  // q [T, H (nope + rope)], kv [T, H (nope + v)], k_rope [T, rope] -> o [T, H v], rounded where it
  // is stored, as are the probabilities and the gradients of the scores, which meet rounded values.
  Var attention(Var q, Var kv, Var k_rope, const ReferenceAttention& shape);
  Var router_scores(Var logits, const ref::Routing& how);
  Var router_weights(Var scores, std::vector<int32_t> experts, const ref::Routing& how);
  // The mean over sequences; f [B, E] is a constant.
  Var balance_loss(Var scores, std::vector<double> f, int64_t B, int64_t S,
                   const ref::Routing& how);
  // The mean over the targets that count; 0 where there is none.
  Var cross_entropy(Var logits, std::vector<int32_t> targets, int64_t V);
  Var weighted_sum(const std::vector<std::pair<double, Var>>& terms);  // of single numbers

 private:
  Var make(size_t size);
  void remember(std::function<void()> backward);

  Rounding rounding_;
  bool with_gradients_;
  std::deque<Node> nodes_;
  std::vector<std::function<void()>> backwards_;
};

}  // namespace minke::study
