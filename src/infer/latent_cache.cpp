#include "infer/latent_cache.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace minke::infer {

LatentCache::LatentCache(const model::ModelConfig& config, model::Precision precision,
                         int64_t layers, int64_t limit)
    : dtype_(model::dtype_of_precision(precision)),
      layers_(layers),
      width_(config.latent_width()),
      limit_(limit) {
  MINKE_CHECK(layers > 0 && layers <= config.layers(), "{} layers", layers);
  if (limit < 1 || limit > config.max_position_embeddings) {
    fail("a context of {} tokens: this model's is 1 to {} (max_position_embeddings)", limit,
         config.max_position_embeddings);
  }
}

std::vector<model::CacheRow> LatentCache::next_rows(int64_t count) { return rows(length_, count); }

std::vector<model::CacheRow> LatentCache::rows(int64_t first, int64_t count) {
  MINKE_CHECK(first >= 0 && count > 0, "{} rows from {}", count, first);
  if (count > limit_ - first) {
    fail("the context is full: {} tokens and {} more do not fit its {}", first, count, limit_);
  }
  reserve(first + count);
  std::vector<model::CacheRow> out;
  for (int64_t i = 0; i < count; ++i) {
    out.push_back(
        {static_cast<std::byte*>(memory_.raw()), capacity_, static_cast<int32_t>(first + i)});
  }
  return out;
}

void LatentCache::advance(int64_t count) {
  MINKE_CHECK(count >= 0 && length_ + count <= capacity_, "{} + {} of {}", length_, count,
              capacity_);
  length_ += count;
}

void LatentCache::truncate(int64_t length) {
  MINKE_CHECK(length >= 0 && length <= length_, "{} of {}", length, length_);
  length_ = length;
}

// Doubles, so that a sequence that grows is copied a constant number of times on average.
void LatentCache::reserve(int64_t positions) {
  if (positions <= capacity_) return;
  constexpr int64_t kLeast = 256;
  const int64_t capacity = std::min(limit_, std::max({positions, 2 * capacity_, kLeast}));
  OwnedTensor memory(dtype_, {layers_, capacity, width_});
  const size_t token = static_cast<size_t>(width_) * size_of(dtype_);
  for (int64_t layer = 0; layer < layers_ && length_ > 0; ++layer) {
    std::memcpy(memory[layer].raw(), memory_[layer].raw(), static_cast<size_t>(length_) * token);
  }
  memory_ = std::move(memory);
  capacity_ = capacity;
}

}  // namespace minke::infer
