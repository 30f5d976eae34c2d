// The engine's side of a verification: a folder's model loaded as training and decoding load it,
// and everything that it computes under the names of ReferenceResult.
#pragma once

#include <functional>

#include "model/transformer.h"
#include "study/verify_folder.h"

namespace minke::study {

class Engine {
 public:
  // change: what is done to the model before its weights are packed; may be empty. Tests break it
  // so, to see that they are told.
  Engine(const GoldenFolder& folder, model::Precision precision,
         const std::function<void(model::Transformer&)>& change);

  // Everything of the batch, with experts forced where `forced` names the layer; the gradients
  // too where the folder has some to compare with. numbers has the names of ReferenceResult.
  ReferenceResult run(const Experts& forced);
  // The batch decoded token by token, each sequence up to the end of its first document where
  // attention is masked: latent.N of the trunk's layers, and hidden, both [B, S, ...] with zeros
  // where nothing was decoded.
  ReferenceResult run_decoded(const Experts& forced);
  // Of each sequence: how many tokens run_decoded() decodes.
  std::vector<int64_t> decoded_lengths() const;

  // The greedy continuation of the folder's prompt, as many tokens as the folder's, by decode.
  struct Text {
    std::vector<int32_t> tokens;
    Experts experts;  // of every token that was read: [prompt + tokens - 1, K]
  };
  Text continue_greedily();

 private:
  void read_forward(const model::Transformer::Saved& saved, const model::Pass& pass,
                    ReferenceResult& out);
  void read_block(int64_t layer, const model::Block::Saved& saved, int64_t sequences,
                  ReferenceResult& out) const;
  void read_losses(const model::Transformer::Losses& losses, ReferenceResult& out) const;
  void read_routers(ReferenceResult& out);
  model::Pass pass() { return {precision_, saved_, scratch_}; }

  const GoldenFolder& folder_;
  model::Precision precision_;
  model::Transformer model_;
  Arena saved_, scratch_;
};

}  // namespace minke::study
