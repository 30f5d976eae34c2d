// The latent cache of one sequence: what MLA keeps of each token in each layer (its normed latent
// and its roped key), in the run's activation type.
#pragma once

#include <vector>

#include "model/transformer.h"

namespace minke::infer {

class LatentCache {
 public:
  // For the first `layers` layers (the trunk's num_hidden_layers, or with MTP's config.layers()),
  // of at most `limit` tokens. Error when limit is above the config's max_position_embeddings.
  LatentCache(const model::ModelConfig& config, model::Precision precision, int64_t layers,
              int64_t limit);

  int64_t length() const { return length_; }
  int64_t limit() const { return limit_; }
  size_t bytes() const { return memory_.empty() ? 0 : memory_.bytes(); }

  // Rows for Transformer::decode of the next `count` tokens, with memory made for them. They are
  // part of the cache once advance() is called, so a decode that throws leaves it as it was. Error
  // when they do not fit the limit. A later call may move the memory that these rows point to.
  std::vector<model::CacheRow> next_rows(int64_t count);
  // Rows at positions that are to come, or were: for a layer that is behind or ahead of the others.
  // What lies beyond length() is not kept by a call that makes more memory.
  std::vector<model::CacheRow> rows(int64_t first, int64_t count);
  void advance(int64_t count);
  // Forgets all tokens from `length` on.
  void truncate(int64_t length);

 private:
  void reserve(int64_t positions);

  DType dtype_;
  int64_t layers_, width_, limit_;
  int64_t length_ = 0, capacity_ = 0;
  OwnedTensor memory_;  // [layers, capacity, latent + rope]
};

}  // namespace minke::infer
