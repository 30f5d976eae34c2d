// Whether a model finds in its context what it was told there: a string of random tokens lies at
// some depth of a text and is begun again at the text's end. Whoever remembers it goes on with it;
// nobody can guess it. Where it was never told, the same is a guess, for comparison.
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

// A text of `length` tokens: BOS, held-out text from a random place, among it the needle at `depth`
// of it (0: first; absent: not at all), and the needle. Text and needle are drawn by (seed, trial).
// Needle tokens are such as occur in the text. tokens: BOS, then held-out text; it is read as a
// ring.
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
