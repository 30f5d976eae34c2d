// Whether a model finds in its context what it read there: some words from elsewhere lie at a depth
// of a text and are begun again at the text's end. Whoever remembers them goes on with them. How
// well the same words are guessed that were never there is beside it, for comparison.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "model/transformer.h"

namespace minke::study {

inline constexpr int64_t kNeedleTokens = 12;
inline constexpr int64_t kNeedleCue = 4;  // given again; the others are scored
// A needle, its repetition, and as much text.
inline constexpr int64_t kShortestNeedleText = 4 * kNeedleTokens;
inline constexpr std::array<double, 5> kNeedleDepths = {0, 0.25, 0.5, 0.75, 1};

// A text of `length` tokens: BOS, held-out text, among it the needle at `depth` of it (0: first;
// absent: not at all), and the needle. Both are drawn by (seed, trial) from `tokens` (BOS, then
// held-out text; a ring of twice `length` at least), the needle from where the text is not. A
// longer text is the shorter one and what was before it.
std::vector<int32_t> needle_text(std::span<const int32_t> tokens, int64_t length,
                                 std::optional<double> depth, uint64_t seed, int64_t trial);

struct NeedleScore {
  double log_probability = 0;  // mean, in nats a token
  double found = 0;            // share of the tokens that were the likeliest
};

struct NeedleRow {
  int64_t length = 0;
  NeedleScore absent;
  std::array<NeedleScore, kNeedleDepths.size()> at_depth;
};

// Means over so many trials of a length, each depth with the same texts and needles.
NeedleRow find_needles(model::Transformer& model, std::span<const int32_t> tokens, int64_t length,
                       int64_t trials, uint64_t seed, const model::Pass& pass);

}  // namespace minke::study
