// Rotary position embedding of adjacent pairs: (a, b) -> (a cos - b sin, a sin + b cos).
#pragma once

#include <algorithm>

#include "ref/ref.h"

namespace minke::ref {

// x, y [T, heads * width]; of each head the numbers [offset, offset + 2 half) are rotated and the
// rest is copied. cos, sin [positions, half]; positions [T]. inverse: the transposed rotation,
// which is the backward of the other.
template <typename Number>
void rope(Out<Number> y, In<Number> x, In<double> cos, In<double> sin, In<int32_t> positions,
          int64_t T, int64_t heads, int64_t width, int64_t offset, int64_t half, bool inverse) {
  std::copy(x.begin(), x.end(), y.begin());
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t a = (t * heads + h) * width + offset + 2 * i, b = a + 1;
        const double c = cos[positions[t] * half + i];
        const double s = (inverse ? -1 : 1) * sin[positions[t] * half + i];
        y[a] = x[a] * c - x[b] * s;
        y[b] = x[a] * s + x[b] * c;
      }
    }
  }
}

}  // namespace minke::ref
