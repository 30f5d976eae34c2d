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
  const std::span<const int32_t> text = tokens.subspan(1);
  const auto size = std::ssize(text);
  MINKE_CHECK(length >= kShortestNeedleText && 2 * length <= size, "{} of {} tokens", length, size);
  Rng rng(stream_key(seed, static_cast<uint64_t>(trial), "needle"));
  // Before `end` in the ring lies the text around it, behind it the needle: no length changes them.
  const auto end = static_cast<int64_t>(rng.below(static_cast<uint64_t>(size)));
  const auto from = end + static_cast<int64_t>(rng.below(static_cast<uint64_t>(size / 2)));
  const auto add = [&](std::vector<int32_t>& out, int64_t begin, int64_t count) {
    for (int64_t i = begin; i < begin + count; ++i) {
      out.push_back(text[static_cast<size_t>((i + size) % size)]);
    }
  };
  const int64_t told = depth ? kNeedleTokens : 0;
  const int64_t around = length - 1 - kNeedleTokens - told;
  const auto before = static_cast<int64_t>(depth.value_or(0) * static_cast<double>(around));
  std::vector<int32_t> out = {tokens.front()};
  add(out, end - around, before);
  add(out, from, told);
  add(out, end - around + before, around - before);
  add(out, from, kNeedleTokens);
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
