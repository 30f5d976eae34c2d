// Text from a model: prefill of a prompt in chunks, then one token after the other, from the
// latent cache.
//
// A row's result does not depend on how many rows are computed with it (what Transformer::decode
// promises), so neither the prefill's chunks nor what the cache held before change a byte of the
// answer.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "infer/latent_cache.h"
#include "infer/sampler.h"
#include "model/transformer.h"

namespace minke::infer {

enum class Stop {
  kEnd,          // the model ended its text
  kMaxTokens,    // as many as asked for
  kContext,      // the context is full
  kInterrupted,  // the caller stopped it
};
std::string_view name_of(Stop stop);

struct Generation {
  std::vector<int32_t> tokens;  // without the token that ended it
  Stop stop = Stop::kEnd;
  int64_t reused = 0;   // tokens of the prompt that the cache still held
  int64_t prefill = 0;  // tokens of the prompt that were computed
  double prefill_seconds = 0;
  int64_t steps = 0;  // tokens decoded one at a time: all but the first
  double decode_seconds = 0;

  double prefill_rate() const;  // tokens a second; 0 where nothing was measured
  double decode_rate() const;
};

class Generator {
 public:
  struct Options {
    int64_t vocabulary = 0;                // the tokenizer's; 0: the model's
    std::vector<int32_t> holes = {};       // ids below it that are no tokens
    std::vector<int32_t> end_tokens = {};  // any of these ends the text
    int64_t context = 0;        // tokens of prompt and answer together; 0: the model's most
    int64_t prefill_rows = 64;  // tokens of the prompt computed at once
  };
  // The model must be prepared (Transformer::prepare and prepare_decode) and outlive this.
  // Error for a tokenizer with more tokens than the model, or a context that it does not have.
  Generator(model::Transformer& model, Options options);

  // Called with each token as it comes; and between steps, whether to stop.
  using OnToken = std::function<void(int32_t)>;
  using ShouldStop = std::function<bool()>;

  // Continues `prompt`. Whatever the cache still holds of its beginning (an earlier turn of the
  // same chat) is not computed again. Errors (a prompt that is empty or leaves no room in the
  // context, a token that is none, logits that are not finite) leave the generator usable.
  Generation generate(std::span<const int32_t> prompt, const Sampling& sampling, int64_t max_tokens,
                      const OnToken& on_token, const ShouldStop& should_stop);

  int64_t context() const { return cache_.limit(); }
  size_t cache_bytes() const { return cache_.bytes(); }

 private:
  void check_prompt(std::span<const int32_t> prompt) const;
  int64_t keep_common(std::span<const int32_t> prompt);
  // False when it was stopped.
  bool prefill(std::span<const int32_t> prompt, const ShouldStop& should_stop, Generation& out);
  // Computes `tokens` into the cache; the last row's logits.
  void step(std::span<const int32_t> tokens, bool with_logits);

  model::Transformer& model_;
  Options options_;
  LatentCache cache_;
  std::vector<int32_t> cached_;  // the tokens in cache_
  Arena saved_, scratch_;
  OwnedTensor hidden_MD_, logits_1V_;
};

}  // namespace minke::infer
