// Held-out text: loss, perplexity and bits a byte by depth, one protocol everywhere.
//
// The whole text is one document, the beginning-of-sentence token first, and every byte counts; of
// conversations what the assistant says (train/held_out.h).
// Windows of S tokens advance by half of it; each token is predicted once, with at least half a
// window before it (save at the start).
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "train/held_out.h"
#include "train/trainer.h"

namespace minke::train {

struct EvalDepth {
  double loss = 0;  // mean, in nats a token
  int64_t tokens = 0;
  double perplexity() const;
};

struct Evaluation {
  std::vector<EvalDepth> depth;
  int64_t tokens = 0, bytes = 0;  // predicted
  double bits_per_byte = 0;       // of depth 0
  // How often depth 1's most likely token is what the trunk, a token later, finds most likely: what
  // greedy speculation would accept. Negative where there is no MTP.
  double acceptance = -1;
  // Tokens that each expert got, in all windows that the text fills, what came before the counted
  // half of a window included. Counts are 0 where it fills none.
  std::vector<RouterLoad> routers;
  // Whether there are routers, and a window that was counted.
  bool loads_known() const;
};

struct EvalOptions {
  int64_t window = 0;       // S, even
  int64_t max_windows = 0;  // so many of those that count, evenly over the text; 0: all
  int64_t sequences = 8;    // windows computed at once
  // Called with token index (from 1), token and -log p of each that counts, in order; and after
  // every few windows with the share that is done.
  std::function<void(int64_t, int32_t, float)> on_token;
  std::function<void(double)> on_progress;
};

// bytes_of: as Encoder has it.
Evaluation evaluate(model::Transformer& model, const HeldOut& text,
                    const std::function<int64_t(int32_t)>& bytes_of, const EvalOptions& options,
                    const model::Pass& pass);

}  // namespace minke::train
