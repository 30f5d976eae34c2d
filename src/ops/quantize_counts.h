// What quantising to E4M3 and E5M6 does to numbers, by kind of tensor. Off until it is asked for:
// it reads everything again.
#pragma once

#include <string>
#include <vector>

#include "ops/matrix.h"
#include "tensor/number.h"

namespace minke::ops {

struct QuantizeCounts {
  std::string kind;
  int64_t numbers = 0;
  int64_t saturated = 0;    // codes of the largest magnitude: at least one of a tile
  int64_t underflowed = 0;  // to zero, of numbers that are not
  float least_scale = 0, largest_scale = 0;
};

// Starts counting from zero; ends it and returns the kinds by name.
void start_quantize_counts();
std::vector<QuantizeCounts> finish_quantize_counts();

// What this thread quantises until the end of the scope is of that kind (a literal), outside of all
// "activations"; weights say so themselves.
class QuantizingAs {
 public:
  explicit QuantizingAs(const char* kind);
  ~QuantizingAs();
  QuantizingAs(const QuantizingAs&) = delete;
  QuantizingAs& operator=(const QuantizingAs&) = delete;

 private:
  const char* outer_;
};

// For ops that quantise: x (FP32, BF16) became `codes` (E4M3, or numbers of codes in BF16, of which
// `largest` is the largest) with scale(r, i) = scale[r * stride + i] for `scales` of each row. kind
// null: this thread's.
bool counts_quantizing();
void count_quantized(const Matrix& x, const Matrix& codes, const float* scale, int64_t stride,
                     int64_t scales, const char* kind = nullptr, float largest = kMaxE4M3);

}  // namespace minke::ops
