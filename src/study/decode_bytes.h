// What decoding reads: weights as they are prepared, and the latent cache.
#pragma once

#include "model/transformer.h"

namespace minke::study {

// Bytes of weights by what a pass reads of them.
struct DecodeBytes {
  double trunk = 0;         // every trunk weight but routed experts and head
  double trunk_expert = 0;  // a routed expert of every MoE layer of the trunk: one in each
  double head = 0;
  double mtp = 0;  // the first MTP module's, but routed experts
  double mtp_expert = 0;
  double cache = 0;  // the trunk's latents of a token
  double mtp_cache = 0;
};
DecodeBytes decode_bytes(model::Transformer& model);

}  // namespace minke::study
