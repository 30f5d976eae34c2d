// Which token comes next: from a row of logits to an id.
//
// The order is Hugging Face's: temperature, then top-k, then top-p of what is left, then min-p.
// Ids that are no tokens (padding rows of the head: those from the vocabulary on, and holes in it)
// are never candidates.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace minke::infer {

struct Sampling {
  double temperature = 1;  // divides the logits; 0: greedy, the lowest id wins a tie
  int64_t top_k = 0;       // only the k most likely; 0: all
  double top_p = 1;        // the fewest most likely ids whose probabilities reach p; 1: all
  double min_p = 0;        // only ids at least min_p times as likely as the likeliest; 0: all
  uint64_t seed = 0;

  // Error naming the setting, what it is, and its range.
  void check() const;
};

class Sampler {
 public:
  struct Candidate {
    int32_t id = 0;
    double p = 0;
  };

  // vocabulary: ids below it are tokens, save the holes. Checks the sampling.
  Sampler(const Sampling& sampling, int64_t vocabulary, std::span<const int32_t> holes = {});

  // The distribution that sample() draws from: at least one candidate, each p > 0, their sum 1 up
  // to rounding. Error when a token's logit is not finite.
  const std::vector<Candidate>& candidates(std::span<const float> logits_V);

  // The token at `position` of its sequence. The random numbers are named by seed, position and id:
  // a text that is continued later, or elsewhere, goes on as it would have; and draws from two
  // distributions agree mostly where these are near (Daliri, Musco and Suresh 2024, "Coupling
  // without communication and drafter-invariant speculative decoding"). That agreement is what
  // accepts a draft, so a text does not depend on whether, or how, it was drafted.
  int32_t sample(std::span<const float> logits_V, int64_t position);

 private:
  int32_t likeliest(std::span<const float> logits_V) const;
  void keep_top_p();

  Sampling sampling_;
  int64_t vocabulary_;
  struct Run {
    int32_t begin, end;
  };
  std::vector<Run> runs_;  // of ids that are tokens, ascending
  std::vector<Candidate> candidates_;
};

}  // namespace minke::infer
