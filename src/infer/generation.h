// Text from a model: prefill of a prompt in chunks, then token after token, from the latent cache.
//
// Tokens may be drafted by the model's MTP module: the trunk then computes several rows at once,
// and keeps the drafts that are what it would have drawn itself (speculative decoding).
//
// A row's result does not depend on how many rows are computed with it (what Transformer::decode
// promises), and a draw depends on nothing but its row and its position: so neither drafts, nor the
// prefill's chunks, nor what the cache held before change a byte of the answer.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "infer/draft_width.h"
#include "infer/drafter.h"
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
  int64_t steps = 0;    // passes of the trunk after the prefill's
  int64_t decoded = 0;  // tokens that they gave: all but the first
  double decode_seconds = 0;
  // By position in a draft: how many there were, and how many stood.
  struct Drafts {
    int64_t made = 0, accepted = 0;
  };
  std::vector<Drafts> drafts;

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
    int64_t draft = 0;  // tokens drafted a step, up to DraftWidth::kMost; kAutoDraft: as pays
    // Of a prompt, computes rows of the last layer that nobody reads, too: what is measured then is
    // what every other layer does.
    bool unread_rows = false;
  };
  static constexpr int64_t kAutoDraft = -1;
  // The model must be prepared (Transformer::prepare and prepare_decode) and outlive this.
  // Error for a tokenizer with more tokens than the model, a context that it does not have, or
  // drafts where it has no MTP module (kAutoDraft then makes none).
  Generator(model::Transformer& model, Options options);
  // Error where so many are to be drafted by a model that cannot.
  static void check_draft(int64_t draft, bool has_mtp);

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
  struct Text;  // what is being written

  void check_prompt(std::span<const int32_t> prompt) const;
  int64_t keep_common(std::span<const int32_t> prompt);
  bool prefill(Text& text, const ShouldStop& should_stop);
  int64_t draft_width(const Text& text) const;
  void decode_step(Text& text);
  // Draws the tokens of the first rows of logits, up to the first that is not as drafted: how many
  // rows counted.
  int64_t draw(Text& text, int64_t rows);
  // Computes `tokens` into the cache, and the logits of the last `logit_rows`. Returns the states
  // of the last rows: all where someone reads them.
  Tensor step(std::span<const int32_t> tokens, int64_t logit_rows);
  model::Pass pass() { return model_.pass(saved_, scratch_); }

  model::Transformer& model_;
  Options options_;
  LatentCache cache_;
  std::vector<int32_t> cached_;  // the tokens in cache_
  std::optional<Drafter> drafter_;
  DraftWidth width_;
  Arena saved_, scratch_;
  OwnedTensor hidden_MD_, logits_MV_;
};

}  // namespace minke::infer
