// Guesses at the tokens to come, from the model's first MTP module (V3 report, sections 2.2 and
// 5.4.3): from the trunk's state of a token and the token after it, the one after both. The
// module's own state then takes the place of the trunk's, so one module guesses any number.
//
// The module's latents lie in its layer of the trunk's cache, at rows of their own: it may begin to
// read a text late, and RoPE, being relative, does not mind where.
#pragma once

#include <span>
#include <vector>

#include "infer/latent_cache.h"
#include "infer/sampler.h"
#include "model/transformer.h"

namespace minke::infer {

class Drafter {
 public:
  // Where it begins late, it reads so much of the text before.
  static constexpr int64_t kLateRows = 16;
  // Rows that a draft computes at once at most.
  static constexpr int64_t kMostRows = 2 * kLateRows;

  // The cache has the module's layer. Both outlive this.
  Drafter(model::Transformer& model, LatentCache& cache);

  // The trunk's states of the tokens after those it has seen; `text` is all that is known, at least
  // up to them. now: reads the rows whose next token is known. Otherwise their states are kept for
  // the next draft, or those of the last rows where they become many.
  void see(std::span<const int32_t> text, const Tensor& state_MD, bool now,
           const model::Pass& pass);
  // Forgets the text from `length` on, and returns the length that is kept: the trunk goes on
  // there, which is earlier where a state is needed that is no longer had.
  int64_t truncate(int64_t length);
  // Rows that a draft reads first, or now.
  int64_t behind() const { return seen_ - read_; }
  void catch_up(std::span<const int32_t> text, const model::Pass& pass);

  // `width` tokens to come after `text`, of which all but the last token have been seen. Drawn as
  // the trunk's are: the sampler agrees with itself where the distributions do.
  std::vector<int32_t> draft(std::span<const int32_t> text, int64_t width, Sampler& sampler,
                             const model::Pass& pass);

 private:
  void keep(const Tensor& state_MD);
  // The module on rows of the text from `row` on; the last one's state goes to state_1D_, and the
  // others only leave their latents.
  void run(const Tensor& state_MD, std::span<const int32_t> tokens, int64_t row,
           const model::Pass& pass);

  model::Transformer& model_;
  LatentCache& cache_;
  int64_t first_ = 0;  // the text's row that is the module's first
  int64_t read_ = 0;   // the text's rows from first_ to here have latents
  int64_t seen_ = 0;   // rows from read_ to here wait in kept_MD_
  OwnedTensor kept_MD_;
  OwnedTensor state_1D_, logits_1V_;
};

}  // namespace minke::infer
