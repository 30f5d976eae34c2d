// Derivatives to the last digit: f'(x) = Im f(x + ih) / h, with h so small that h^2 vanishes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <functional>
#include <string_view>
#include <vector>

#include "base/rng.h"

namespace minke::ref {

using Complex = std::complex<double>;
using Complexes = std::vector<Complex>;
using Doubles = std::vector<double>;

inline Complexes to_complex(const Doubles& x) { return {x.begin(), x.end()}; }

// Standard normal numbers, of a stream named `what`.
inline Doubles random_doubles(size_t n, std::string_view what) {
  Rng rng(stream_key(1, 0, what));
  Doubles x(n);
  for (double& v : x) v = rng.normal();
  return x;
}

inline Complex dot(const Complexes& a, const Doubles& b) {
  Complex sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Compares `gradient` with the derivative of `loss` at x, number by number. Both sides are sums of
// at most `terms` products, evaluated in float64 with less than 64 roundings each, of which the
// largest partial result is taken to be the largest derivative or 1.
inline void expect_gradient(const Doubles& gradient, const Doubles& x, size_t terms,
                            const std::function<Complex(const Complexes&)>& loss) {
  ASSERT_EQ(gradient.size(), x.size());
  constexpr double kStep = 1e-100;
  double largest = 1;
  for (const double g : gradient) largest = std::max(largest, std::abs(g));
  const double bound = 64 * static_cast<double>(terms) * 0x1p-53 * largest;
  Complexes z = to_complex(x);
  for (size_t i = 0; i < x.size(); ++i) {
    z[i] = Complex(x[i], kStep);
    EXPECT_NEAR(gradient[i], loss(z).imag() / kStep, bound) << "at " << i;
    z[i] = x[i];
  }
}

}  // namespace minke::ref
