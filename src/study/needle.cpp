#include "study/needle.h"

#include "base/rng.h"

namespace minke::study {
namespace {

NeedleScore score(model::Transformer& model, std::span<const int32_t> tokens, int64_t length,
                  std::optional<double> depth, int64_t trials, uint64_t seed,
                  const model::Pass& pass) {
  const int64_t scored = kNeedleTokens - kNeedleCue;
  NeedleScore out;
  for (int64_t trial = 0; trial < trials; ++trial) {
    const std::vector<int32_t> text = needle_text(tokens, length, depth, seed, trial);
    const model::Batch batch{1, length - 1, length, text, {}, false};
    std::vector<float> loss(static_cast<size_t>(length - 1));
    std::vector<int32_t> likely(loss.size());
    const std::array<std::span<float>, 1> losses = {loss};
    const std::array<std::span<int32_t>, 1> likeliest = {likely};
    model::Transformer::Options how;
    how.depths = 0;
    model.evaluate(batch, how, losses, likeliest, pass);
    for (auto i = static_cast<size_t>(length - 1 - scored); i < loss.size(); ++i) {
      out.log_probability -= static_cast<double>(loss[i]);
      out.found += likely[i] == text[i + 1] ? 1 : 0;
    }
  }
  for (double* sum : {&out.log_probability, &out.found}) {
    *sum /= static_cast<double>(trials * scored);
  }
  return out;
}

}  // namespace

std::vector<int32_t> needle_text(std::span<const int32_t> tokens, int64_t length,
                                 std::optional<double> depth, uint64_t seed, int64_t trial) {
  MINKE_CHECK(length >= kShortestNeedleText && tokens.size() > 1, "a needle in {} tokens", length);
  Rng rng(stream_key(seed, static_cast<uint64_t>(trial), "needle"));
  const std::span<const int32_t> held_out = tokens.subspan(1);
  std::vector<int32_t> needle;
  for (int64_t i = 0; i < kNeedleTokens; ++i)
    needle.push_back(held_out[rng.below(held_out.size())]);

  size_t at = rng.below(held_out.size());
  std::vector<int32_t> out = {tokens.front()};
  const int64_t told = depth ? kNeedleTokens : 0;
  const int64_t around = length - 1 - kNeedleTokens - told;
  for (int64_t i = 0; i < around; ++i) out.push_back(held_out[at++ % held_out.size()]);
  if (depth) {
    const auto before = static_cast<int64_t>(*depth * static_cast<double>(around));
    out.insert(out.begin() + 1 + before, needle.begin(), needle.end());
  }
  out.insert(out.end(), needle.begin(), needle.end());
  return out;
}

NeedleRow find_needles(model::Transformer& model, std::span<const int32_t> tokens, int64_t length,
                       int64_t trials, uint64_t seed, const model::Pass& pass) {
  NeedleRow row;
  row.length = length;
  row.absent = score(model, tokens, length, {}, trials, seed, pass);
  for (size_t i = 0; i < kNeedleDepths.size(); ++i) {
    row.at_depth[i] = score(model, tokens, length, kNeedleDepths[i], trials, seed, pass);
  }
  return row;
}

}  // namespace minke::study
