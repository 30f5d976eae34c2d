#include "infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/rng.h"

namespace minke::infer {
namespace {

// A total order, so that what is kept never depends on how it was sorted.
bool more_likely(const Sampler::Candidate& a, const Sampler::Candidate& b) {
  return a.p != b.p ? a.p > b.p : a.id < b.id;
}

double sum(std::span<const Sampler::Candidate> candidates) {
  return std::accumulate(candidates.begin(), candidates.end(), 0.0,
                         [](double s, const Sampler::Candidate& c) { return s + c.p; });
}

void sort_by_id(std::vector<Sampler::Candidate>& candidates) {
  if (!std::ranges::is_sorted(candidates, {}, &Sampler::Candidate::id)) {
    std::ranges::sort(candidates, {}, &Sampler::Candidate::id);
  }
}

constexpr float kLeast = -std::numeric_limits<float>::infinity();

struct Extent {
  float most;
  bool finite;
};

// In lanes of their own, so that the compiler takes several at once: it may not regroup floats.
Extent extent_of(std::span<const float> x) {
  constexpr size_t kLanes = 16;
  float most[kLanes], zero[kLanes] = {};  // zero times what is not finite is no number
  std::ranges::fill(most, kLeast);
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float here = x[i + lane];
      most[lane] = here > most[lane] ? here : most[lane];
      zero[lane] += 0.0F * here;
    }
  }
  for (; i < x.size(); ++i) {
    most[0] = x[i] > most[0] ? x[i] : most[0];
    zero[0] += 0.0F * x[i];
  }
  return {std::ranges::max(most), std::ranges::all_of(zero, [](float z) { return z == 0; })};
}

[[noreturn]] void refuse(std::span<const float> logits, int32_t first) {
  const auto bad = std::ranges::find_if_not(logits, [](float x) { return std::isfinite(x); });
  fail("the logit of token {} is {}: the model's weights are damaged, or have diverged",
       first + (bad - logits.begin()), *bad);
}

// Ids that are drawn together, then one of them: a random number for each block, and each of one.
constexpr int32_t kBlock = 64;

// When the clock of `id` rings, which does so at `rate`: the first of all is each with the
// probability that its rate has among them.
double clock(uint64_t key, int32_t id, double rate) {
  return -std::log1p(-Rng(key, static_cast<uint64_t>(id)).uniform()) / rate;
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
    : sampling_(sampling), vocabulary_(vocabulary) {
  sampling_.check();
  std::vector<bool> is_token(static_cast<size_t>(std::max<int64_t>(vocabulary, 0)), true);
  for (const int32_t hole : holes) is_token.at(static_cast<size_t>(hole)) = false;
  for (int32_t id = 0; id < vocabulary; ++id) {
    if (!is_token[static_cast<size_t>(id)]) continue;
    if (runs_.empty() || runs_.back().end != id) runs_.push_back({id, id});
    ++runs_.back().end;
  }
  MINKE_CHECK(!runs_.empty(), "a vocabulary of no tokens");
}

int32_t Sampler::likeliest(std::span<const float> logits_V) const {
  MINKE_CHECK(static_cast<int64_t>(logits_V.size()) >= vocabulary_, "{} logits, {} tokens",
              logits_V.size(), vocabulary_);
  const auto of = [&](const Run& run) {
    return logits_V.subspan(static_cast<size_t>(run.begin),
                            static_cast<size_t>(run.end - run.begin));
  };
  float most = kLeast;
  for (const Run& run : runs_) {
    const Extent extent = extent_of(of(run));
    if (!extent.finite) refuse(of(run), run.begin);
    most = std::max(most, extent.most);
  }
  for (const Run& run : runs_) {
    const std::span<const float> logits = of(run);
    const auto at = std::ranges::find(logits, most);
    if (at != logits.end()) return run.begin + static_cast<int32_t>(at - logits.begin());
  }
  MINKE_CHECK(false, "no logit is {}", most);
}

const std::vector<Sampler::Candidate>& Sampler::candidates(std::span<const float> logits_V) {
  const int32_t best = likeliest(logits_V);
  candidates_.clear();
  if (sampling_.temperature == 0) {
    candidates_.push_back({best, 1});
    return candidates_;
  }
  const double most = logits_V[static_cast<size_t>(best)];
  // Far enough below what min-p keeps that no rounding matters; top-p counts all.
  const double least = sampling_.top_p == 1
                           ? most + sampling_.temperature * (std::log(sampling_.min_p) - 1)
                           : -std::numeric_limits<double>::infinity();
  for (const Run& run : runs_) {
    for (int32_t id = run.begin; id < run.end; ++id) {
      const double logit = logits_V[static_cast<size_t>(id)];
      if (logit < least) continue;
      // Relative to the likeliest, which is 1: nothing overflows. 0 once it is below any double.
      const double p = std::exp((logit - most) / sampling_.temperature);
      if (p > 0) candidates_.push_back({id, p});
    }
  }
  const auto k = static_cast<size_t>(sampling_.top_k);
  if (k > 0 && k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(k) - 1,
                     candidates_.end(), more_likely);
    candidates_.resize(k);
  }
  if (sampling_.top_p < 1) keep_top_p();
  std::erase_if(candidates_, [&](const Candidate& c) { return c.p < sampling_.min_p; });
  sort_by_id(candidates_);
  const double total = sum(candidates_);
  for (Candidate& candidate : candidates_) candidate.p /= total;
  return candidates_;
}

void Sampler::keep_top_p() {
  sort_by_id(candidates_);  // nth_element leaves no order to sum in
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
  const auto draw = [&](const char* what) {
    return stream_key(sampling_.seed, static_cast<uint64_t>(position), what);
  };
  const auto block = [](const Candidate& c) { return c.id / kBlock; };
  const uint64_t block_key = draw("sample.block"), key = draw("sample");
  std::span<const Candidate> chosen_block;
  double first = std::numeric_limits<double>::infinity();
  for (auto begin = candidates_.cbegin(); begin != candidates_.cend();) {
    const auto end = std::find_if(begin, candidates_.cend(),
                                  [&](const Candidate& c) { return block(c) != block(*begin); });
    const std::span<const Candidate> all(begin, end);
    const double time = clock(block_key, block(*begin), sum(all));
    if (time < first) {
      first = time;
      chosen_block = all;
    }
    begin = end;
  }
  return std::ranges::min_element(chosen_block, {},
                                  [&](const Candidate& c) { return clock(key, c.id, c.p); })
      ->id;
}

}  // namespace minke::infer
