// The float64 reference of every op, forward and derivative: slow and obvious, so that it can be
// checked by reading. Tests, `verify` and `bench` compare with it.
//
// Conventions of this room:
// - Every function is a template over its number, named where it is called: rms_norm<double>(...).
//   With std::complex<double> the derivative of anything real comes out to the last digit by a
//   complex step: f'(x) = Im f(x + ih) / h with h = 1e-100. So nothing here takes an absolute value
//   or a conjugate, and choices (a maximum, a rank) look at real parts alone.
// - Arrays are contiguous, row-major spans in the order (results, inputs, sizes, constants).
// - A forward overwrites its results. A backward ADDS to the gradients it names (dx, dw), and takes
//   what the forward took plus the gradient of its result (dy); nothing is saved between the two.
// - Sizes are trusted. Letters are those of tensor/tensor.h.
#pragma once

#include <complex>
#include <cstdint>
#include <span>
#include <vector>

namespace minke::ref {

template <typename Number>
using In = std::span<const Number>;
template <typename Number>
using Out = std::span<Number>;

inline double real_part(double x) { return x; }
inline double real_part(const std::complex<double>& x) { return x.real(); }

}  // namespace minke::ref
