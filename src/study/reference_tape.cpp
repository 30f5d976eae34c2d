#include "study/reference_tape.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "ref/activation.h"
#include "ref/matmul.h"
#include "ref/norm.h"
#include "ref/permute.h"
#include "tensor/scales.h"

namespace minke::study {
namespace {

using Numbers = std::vector<double>;

// The finaliser of splitmix64: every bit of the result depends on every bit of the number.
uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

void add_to(Numbers& y, const Numbers& x) {
  for (size_t i = 0; i < y.size(); ++i) y[i] += x[i];
}

// A matrix [rows, cols] with the worst errors of E4M3 in tiles. salt: of the product that reads it.
Numbers with_errors_of_e4m3(const Numbers& x, int64_t cols, TileShape tile,
                            const Rounding& rounding, uint64_t salt) {
  constexpr double kLeastNormal = 0x1p-6, kHalfStep = 0x1p-10;
  const int64_t rows = std::ssize(x) / cols;
  const Rounding normal{.size = kRoundoffE4M3, .seed = mix(rounding.seed + salt), .bits = 4};
  Numbers out(x.size());
  for (int64_t i = 0; i < rows; i += tile.rows) {
    for (int64_t j = 0; j < cols; j += tile.cols) {
      const auto each = [&](auto&& visit) {
        for (int64_t r = i; r < std::min(rows, i + tile.rows); ++r) {
          for (int64_t c = j; c < std::min(cols, j + tile.cols); ++c) visit(r * cols + c);
        }
      };
      double amax = 0;
      each([&](int64_t at) { amax = std::max(amax, std::abs(x[at])); });
      const auto scale = double{e4m3_scale(static_cast<float>(amax), ScaleFormat::kF32)};
      each([&](int64_t at) {
        const double y = x[at] / scale;
        if (std::abs(y) >= kLeastNormal || y == 0) {
          out[at] = normal(y) * scale;
        } else {
          const auto step = static_cast<int64_t>(std::floor(y / kHalfStep));
          const bool up = (mix(static_cast<uint64_t>(step) + normal.seed) & 1U) != 0;
          out[at] = (up ? y + kHalfStep : y - kHalfStep) * scale;
        }
      });
    }
  }
  return out;
}

enum Salt : uint64_t { kFprop = 1, kDgrad, kWgrad, kWeight, kSwiglu };

}  // namespace

double Rounding::operator()(double x) const {
  // Of a double's 52 stored bits, those below half a unit in the format's last place.
  const uint64_t below = (uint64_t{1} << (53 - bits - 1)) - 1;
  const auto code = std::bit_cast<uint64_t>(x);
  const bool held = (code & (2 * below + 1)) == 0;
  if (size == 0 || held) return x;
  const bool up = (mix((code & ~below) + mix(seed)) & 1U) != 0;
  return up ? x * (1 + size) : x * (1 - size);
}

Tape::Var Tape::make(size_t size) {
  nodes_.emplace_back();
  nodes_.back().value.resize(size);
  if (with_gradients_) nodes_.back().gradient.resize(size);
  return &nodes_.back();
}

void Tape::remember(std::function<void()> backward) {
  if (with_gradients_) backwards_.push_back(std::move(backward));
}

void Tape::backward(Var of) {
  MINKE_CHECK(with_gradients_ && of->value.size() == 1);
  of->gradient[0] = 1;
  for (auto step = backwards_.rbegin(); step != backwards_.rend(); ++step) (*step)();
}

Tape::Var Tape::leaf(Numbers value) {
  const Var x = make(value.size());
  x->value = std::move(value);
  return x;
}

Tape::Var Tape::rounded(Var x, Store what) { return rounded(x, what, {1, 0, 1}); }

Tape::Var Tape::rounded(Var x, Store what, Part part) {
  if (rounding_.size == 0) return x;
  const auto round_part = [rounding = rounding_, part](Numbers& numbers) {
    for (size_t i = 0; i < numbers.size(); ++i) {
      const auto column = static_cast<int64_t>(i) % part.width;
      if (column >= part.begin && column < part.begin + part.count) {
        numbers[i] = rounding(numbers[i]);
      }
    }
  };
  const Var y = make(x->value.size());
  y->value = x->value;
  y->again = x->again;
  if (what != Store::kGradient) {
    round_part(y->value);
    round_part(y->again);
  }
  remember([=] {
    if (what != Store::kValue) round_part(y->gradient);
    add_to(x->gradient, y->gradient);
  });
  return y;
}

Tape::Var Tape::linear(Var x, Var w, int64_t N, int64_t K) {
  const int64_t T = std::ssize(x->value) / K;
  const Var y = make(T * N);
  ref::matmul<double>(y->value, x->value, w->value, T, N, K);
  remember([=] {
    ref::matmul_dgrad<double>(x->gradient, y->gradient, w->value, T, N, K);
    ref::matmul_wgrad<double>(w->gradient, y->gradient, x->value, T, N, K);
  });
  return y;
}

Tape::Var Tape::fp8_linear(Var x, Var w, int64_t N, int64_t K) {
  const int64_t T = std::ssize(x->value) / K;
  const Var y = make(T * N);
  if (T == 0) return y;
  const Numbers x_codes = with_errors_of_e4m3(x->value, K, kTile1x128, rounding_, kFprop);
  const Numbers w_codes = with_errors_of_e4m3(w->value, K, kBlock128x128, rounding_, kWeight);
  ref::matmul<double>(y->value, x_codes, w_codes, T, N, K);
  remember([=, rounding = rounding_] {
    const Numbers dy_rows = with_errors_of_e4m3(y->gradient, N, kTile1x128, rounding, kDgrad);
    ref::matmul_dgrad<double>(x->gradient, dy_rows, w_codes, T, N, K);
    const Numbers& kept = x->again.empty() ? x->value : x->again;
    ref::matmul_wgrad<double>(w->gradient,
                              with_errors_of_e4m3(y->gradient, N, kTile128x1, rounding, kWgrad),
                              with_errors_of_e4m3(kept, K, kTile128x1, rounding, kWgrad), T, N, K);
  });
  return y;
}

Tape::Var Tape::fp8_swiglu(Var gate_up, Var weight, int64_t F) {
  const int64_t T = std::ssize(gate_up->value) / (2 * F);
  const Var h = make(T * F);
  if (T == 0) return h;
  const Numbers none;
  const Numbers& scale = weight ? weight->value : none;
  ref::swiglu<double>(h->value, gate_up->value, scale, T, F);
  // Gate and up have tiles of their own.
  Numbers kept(gate_up->value.size());
  for (int64_t half = 0; half < 2; ++half) {
    Numbers part(T * F);
    for (int64_t i = 0; i < T * F; ++i) {
      part[i] = gate_up->value[i / F * 2 * F + half * F + i % F];
    }
    part = with_errors_of_e4m3(part, F, kTile1x128, rounding_, kSwiglu);
    for (int64_t i = 0; i < T * F; ++i) kept[i / F * 2 * F + half * F + i % F] = rounding_(part[i]);
  }
  h->again.resize(T * F);
  ref::swiglu<double>(h->again, kept, scale, T, F);
  remember([=, kept = std::move(kept)] {
    Numbers empty;
    ref::swiglu_backward<double>(gate_up->gradient, weight ? weight->gradient : empty, h->gradient,
                                 kept, weight ? weight->value : empty, T, F);
  });
  return h;
}

Tape::Var Tape::fp8_rounded_e5m6(Var x) {
  const Rounding e5m6{.size = 0x1p-7, .seed = rounding_.seed, .bits = 7};
  const Var y = make(x->value.size());
  std::ranges::transform(x->value, y->value.begin(), e5m6);
  remember([=] { add_to(x->gradient, y->gradient); });
  return y;
}

Tape::Var Tape::rms_norm(Var x, Var w, int64_t D, double eps) {
  const int64_t T = std::ssize(x->value) / D;
  const Var y = make(x->value.size());
  ref::rms_norm<double>(y->value, x->value, w->value, T, D, eps);
  remember([=, this] {
    ref::rms_norm_backward<double>(x->gradient, w->gradient, y->gradient, x->value, w->value, T, D,
                                   eps);
    if (!rounding_.is_f32()) return;
    // dx is the difference of two terms, which FP32 rounds: all of it where there is one channel.
    for (int64_t t = 0; t < T; ++t) {
      double square = 0;
      for (int64_t i = 0; i < D; ++i) square += x->value[t * D + i] * x->value[t * D + i];
      const double rstd = 1 / std::sqrt(square / static_cast<double>(D) + eps);
      for (int64_t i = 0; i < D; ++i) {
        const double term = rstd * w->value[i] * y->gradient[t * D + i];
        x->gradient[t * D + i] += rounding_(term) - term;
      }
    }
  });
  return y;
}

Tape::Var Tape::swiglu(Var gate_up, Var weight, int64_t F) {
  const int64_t T = std::ssize(gate_up->value) / (2 * F);
  const Var h = make(T * F);
  const Numbers none;
  ref::swiglu<double>(h->value, gate_up->value, weight ? weight->value : none, T, F);
  remember([=] {
    Numbers empty;
    ref::swiglu_backward<double>(gate_up->gradient, weight ? weight->gradient : empty, h->gradient,
                                 gate_up->value, weight ? weight->value : empty, T, F);
  });
  return h;
}

Tape::Var Tape::add(Var x, Var y) {
  MINKE_CHECK(x->value.size() == y->value.size());
  const Var z = make(x->value.size());
  z->value = x->value;
  add_to(z->value, y->value);
  remember([=] {
    add_to(x->gradient, z->gradient);
    add_to(y->gradient, z->gradient);
  });
  return z;
}

Tape::Var Tape::gather_rows(Var x, std::vector<int32_t> rows, int64_t D) {
  const Var y = make(rows.size() * D);
  ref::gather_rows<double>(y->value, x->value, rows, D);
  remember([=, rows = std::move(rows)] {
    ref::gather_rows_backward<double>(x->gradient, y->gradient, rows, D);
  });
  return y;
}

Tape::Var Tape::combine_rows(Var x, std::vector<int32_t> row, int64_t K, int64_t D) {
  const int64_t T = std::ssize(row) / K;
  const Var y = make(T * D);
  ref::combine_rows<double>(y->value, x->value, row, T, K, D);
  remember([=, row = std::move(row)] {
    ref::combine_rows_backward<double>(x->gradient, y->gradient, row, T, K, D);
  });
  return y;
}

Tape::Var Tape::columns(Var x, int64_t width, int64_t begin, int64_t count) {
  const int64_t T = std::ssize(x->value) / width;
  const Var y = make(T * count);
  const auto each = [=](auto&& visit) {
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t i = 0; i < count; ++i) visit(t * count + i, t * width + begin + i);
    }
  };
  each([&](int64_t to, int64_t from) { y->value[to] = x->value[from]; });
  remember([=] { each([&](int64_t to, int64_t from) { x->gradient[from] += y->gradient[to]; }); });
  return y;
}

Tape::Var Tape::beside(Var x, int64_t x_width, Var y, int64_t y_width) {
  const int64_t T = std::ssize(x->value) / x_width, width = x_width + y_width;
  MINKE_CHECK(std::ssize(y->value) == T * y_width);
  const Var z = make(T * width);
  const auto each = [=](auto&& visit) {
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t i = 0; i < width; ++i) {
        const bool left = i < x_width;
        visit(t * width + i, left ? x : y, left ? t * x_width + i : t * y_width + i - x_width);
      }
    }
  };
  each([&](int64_t to, Var from, int64_t at) { z->value[to] = from->value[at]; });
  remember([=] {
    each([&](int64_t to, Var from, int64_t at) { from->gradient[at] += z->gradient[to]; });
  });
  return z;
}

Tape::Var Tape::stack(const std::vector<Var>& rows) {
  size_t size = 0;
  for (const Var x : rows) size += x->value.size();
  const Var y = make(size);
  auto at = y->value.begin();
  for (const Var x : rows) at = std::ranges::copy(x->value, at).out;
  remember([=] {
    auto from = y->gradient.begin();
    for (const Var x : rows) {
      for (double& g : x->gradient) g += *from++;
    }
  });
  return y;
}

Tape::Var Tape::router_scores(Var logits, const ref::Routing& how) {
  const int64_t T = std::ssize(logits->value) / how.experts;
  const Var scores = make(logits->value.size());
  ref::router_scores<double>(scores->value, logits->value, T, how);
  remember([=] {
    ref::router_scores_backward<double>(logits->gradient, scores->gradient, scores->value, T, how);
  });
  return scores;
}

Tape::Var Tape::router_weights(Var scores, std::vector<int32_t> experts, const ref::Routing& how) {
  const int64_t T = std::ssize(scores->value) / how.experts;
  const Var weights = make(experts.size());
  ref::router_weights<double>(weights->value, scores->value, experts, T, how);
  remember([=, experts = std::move(experts)] {
    ref::router_weights_backward<double>(scores->gradient, weights->gradient, scores->value,
                                         experts, T, how);
  });
  return weights;
}

Tape::Var Tape::balance_loss(Var scores, Numbers f, int64_t B, int64_t S, const ref::Routing& how) {
  const Var loss = make(1);
  const auto sequences = static_cast<double>(B);
  loss->value[0] = ref::balance_loss<double>(scores->value, f, B, S, how) / sequences;
  remember([=, f = std::move(f)] {
    ref::balance_loss_backward<double>(scores->gradient, scores->value, f, B, S,
                                       loss->gradient[0] / sequences, how);
  });
  return loss;
}

Tape::Var Tape::cross_entropy(Var logits, std::vector<int32_t> targets, int64_t V) {
  const int64_t T = std::ssize(targets);
  const auto valid = static_cast<double>(T - std::ranges::count(targets, ref::kIgnore));
  const Var loss = make(1);
  if (valid == 0) return loss;
  Numbers each(targets.size());
  loss->value[0] = ref::cross_entropy<double>(each, logits->value, targets, T, V) / valid;
  remember([=, targets = std::move(targets)] {
    ref::cross_entropy_backward<double>(logits->gradient, logits->value, targets, T, V,
                                        loss->gradient[0] / valid);
  });
  return loss;
}

Tape::Var Tape::weighted_sum(const std::vector<std::pair<double, Var>>& terms) {
  const Var sum = make(1);
  for (const auto& [factor, x] : terms) sum->value[0] += factor * x->value[0];
  remember([=] {
    for (const auto& [factor, x] : terms) x->gradient[0] += factor * sum->gradient[0];
  });
  return sum;
}

}  // namespace minke::study
