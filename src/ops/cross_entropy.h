// The head and its loss in one: logits = h W^T, cross-entropy, and both gradients, a block of
// tokens at a time, so that [T, V] is never held whole.
#pragma once

#include <span>

#include "ops/matmul.h"

namespace minke::ops {

inline constexpr int32_t kIgnore = -100;  // a target that does not count

struct CrossEntropy {
  Matrix h_TD;                       // FP32 or BF16
  Packed head;                       // fprop operand of the head [V, D]
  std::span<const int32_t> targets;  // T, or kIgnore; out of [0, V): MINKE_CHECK
  // Gradients of scale * (sum of the valid tokens' losses); leave dh empty where none is wanted.
  float scale = 1;
  Packed head_dgrad;  // dgrad operand of the head
  Matrix dh_TD;       // overwritten; FP32 or BF16
  Tensor dw_VD;       // FP32; untouched where there are no tokens
  bool adds_to_dw = true;
  // Where given: -log p of each target, FP32 (0 where ignored), and the most likely token.
  std::span<float> loss_T;
  std::span<int32_t> argmax_T;
};
// Tokens whose logits are held at once: 128 MB of them at most where the vocabulary allows it, and
// enough that the head's gradient is read and written seldom.
int64_t cross_entropy_block(int64_t vocabulary);
// Returns the sum over valid tokens of -log p(target), natural logarithm.
double linear_cross_entropy(const CrossEntropy& what, Arena& scratch);

}  // namespace minke::ops
