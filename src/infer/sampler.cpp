#include "infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace minke::infer {
namespace {

// A total order, so that what is kept never depends on how it was sorted.
bool more_likely(const Sampler::Candidate& a, const Sampler::Candidate& b) {
  return a.p != b.p ? a.p > b.p : a.id < b.id;
}

double sum(const std::vector<Sampler::Candidate>& candidates) {
  return std::accumulate(candidates.begin(), candidates.end(), 0.0,
                         [](double s, const Sampler::Candidate& c) { return s + c.p; });
}

}  // namespace

void Sampling::check() const {
  if (!(temperature >= 0) || !std::isfinite(temperature)) {
    fail("temperature {}: must be 0 (greedy) or more, and finite", temperature);
  }
  if (top_k < 0) fail("top-k {}: must be 0 (all) or more", top_k);
  if (!(top_p > 0 && top_p <= 1)) fail("top-p {}: must be above 0 and at most 1 (all)", top_p);
  if (!(min_p >= 0 && min_p <= 1)) fail("min-p {}: must be from 0 (all) to 1", min_p);
}

Sampler::Sampler(const Sampling& sampling, int64_t vocabulary, std::span<const int32_t> holes)
    : sampling_(sampling),
      vocabulary_(vocabulary),
      token_(static_cast<size_t>(std::max<int64_t>(vocabulary, 0)), true) {
  sampling_.check();
  for (const int32_t hole : holes) token_.at(static_cast<size_t>(hole)) = false;
  MINKE_CHECK(std::ranges::find(token_, true) != token_.end(), "a vocabulary of no tokens");
}

int32_t Sampler::likeliest(std::span<const float> logits_V) const {
  MINKE_CHECK(static_cast<int64_t>(logits_V.size()) >= vocabulary_, "{} logits, {} tokens",
              logits_V.size(), vocabulary_);
  int32_t best = -1;
  for (int32_t id = 0; id < vocabulary_; ++id) {
    if (!token_[static_cast<size_t>(id)]) continue;
    const float logit = logits_V[static_cast<size_t>(id)];
    if (!std::isfinite(logit)) {
      fail("the logit of token {} is {}: the model's weights are damaged, or have diverged", id,
           logit);
    }
    if (best < 0 || logit > logits_V[static_cast<size_t>(best)]) best = id;
  }
  return best;
}

const std::vector<Sampler::Candidate>& Sampler::candidates(std::span<const float> logits_V) {
  const int32_t best = likeliest(logits_V);
  candidates_.clear();
  if (sampling_.temperature == 0) {
    candidates_.push_back({best, 1});
    return candidates_;
  }
  const double most = logits_V[static_cast<size_t>(best)];
  for (int32_t id = 0; id < vocabulary_; ++id) {
    if (!token_[static_cast<size_t>(id)]) continue;
    const double logit = logits_V[static_cast<size_t>(id)];
    // Relative to the likeliest, which is 1: nothing overflows. 0 once it is below any double.
    const double p = std::exp((logit - most) / sampling_.temperature);
    if (p > 0) candidates_.push_back({id, p});
  }
  const auto k = static_cast<size_t>(sampling_.top_k);
  if (k > 0 && k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(k) - 1,
                     candidates_.end(), more_likely);
    candidates_.resize(k);
  }
  if (sampling_.top_p < 1) keep_top_p();
  std::erase_if(candidates_, [&](const Candidate& c) { return c.p < sampling_.min_p; });
  std::ranges::sort(candidates_, {}, &Candidate::id);
  const double total = sum(candidates_);
  for (Candidate& candidate : candidates_) candidate.p /= total;
  return candidates_;
}

void Sampler::keep_top_p() {
  std::ranges::sort(candidates_, {}, &Candidate::id);  // nth_element leaves no order to sum in
  const double total = sum(candidates_);
  const double enough = sampling_.top_p * total;
  // All ids this unlikely together weigh less than the tail that top-p may cut, so they are cut:
  // what is left to sort is short.
  const double least = (total - enough) / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [&](const Candidate& c) { return c.p < least; });
  std::ranges::sort(candidates_, more_likely);
  double reached = 0;
  size_t kept = 0;
  while (kept < candidates_.size() && reached < enough) reached += candidates_[kept++].p;
  candidates_.resize(std::max<size_t>(kept, 1));
}

int32_t Sampler::sample(std::span<const float> logits_V, int64_t position) {
  candidates(logits_V);
  if (candidates_.size() == 1) return candidates_.front().id;
  Rng rng(stream_key(sampling_.seed, static_cast<uint64_t>(position), "sample"));
  double left = rng.uniform();
  for (const Candidate& candidate : candidates_) {
    left -= candidate.p;
    if (left < 0) return candidate.id;
  }
  return candidates_.back().id;  // the rounding of the sum
}

}  // namespace minke::infer
