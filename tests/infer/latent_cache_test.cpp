#include "infer/latent_cache.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "infer/tiny_model.h"

namespace minke::infer {
namespace {

TEST(LatentCache, RowsFollowTheLength) {
  LatentCache cache(tiny_config(), model::Precision::kBF16, 3, 40);
  EXPECT_EQ(cache.bytes(), 0);
  auto rows = cache.next_rows(5);
  ASSERT_EQ(rows.size(), 5);
  for (int32_t i = 0; i < 5; ++i) EXPECT_EQ(rows[static_cast<size_t>(i)].position, i);
  EXPECT_EQ(cache.length(), 0);  // nothing is in it before advance()
  cache.advance(5);
  EXPECT_EQ(cache.next_rows(1)[0].position, 5);
  cache.truncate(2);
  EXPECT_EQ(cache.next_rows(1)[0].position, 2);
  // A small limit is had at once: layers x limit x (latent + rope) numbers.
  EXPECT_EQ(cache.bytes(), size_t{3} * 40 * (16 + 4) * 2);
}

TEST(LatentCache, KeepsItsNumbersAsItGrows) {
  const model::ModelConfig config = tiny_config();
  const int64_t layers = config.num_hidden_layers;
  LatentCache cache(config, model::Precision::kF32, layers, 2000);
  const auto width = static_cast<size_t>(config.latent_width());
  const auto at = [&](const model::CacheRow& row, int64_t layer) {
    return reinterpret_cast<float*>(row.cache) +
           static_cast<size_t>(layer * row.capacity + row.position) * width;
  };
  const auto number = [](int64_t position, int64_t layer) {
    return static_cast<float>(10 * position + layer);
  };
  for (int64_t position = 0; position < 2000; ++position) {
    const model::CacheRow row = cache.next_rows(1)[0];
    for (int64_t layer = 0; layer < layers; ++layer) {
      std::fill_n(at(row, layer), width, number(position, layer));
    }
    cache.advance(1);
  }
  cache.truncate(0);
  std::vector<model::CacheRow> rows = cache.next_rows(2000);
  for (const model::CacheRow& row : rows) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      ASSERT_EQ(at(row, layer)[0], number(row.position, layer));
      ASSERT_EQ(at(row, layer)[width - 1], number(row.position, layer));
    }
  }
}

TEST(LatentCache, WhatDoesNotFitIsAnErrorAndChangesNothing) {
  LatentCache cache(tiny_config(), model::Precision::kF32, 1, 8);
  cache.next_rows(8);
  cache.advance(7);
  EXPECT_THROW(cache.next_rows(2), Error);
  EXPECT_EQ(cache.length(), 7);
  EXPECT_EQ(cache.next_rows(1)[0].position, 7);
  cache.advance(1);
  EXPECT_THROW(cache.next_rows(1), Error);
  cache.truncate(3);
  EXPECT_EQ(cache.next_rows(1)[0].position, 3);
}

TEST(LatentCache, RowsOfALayerThatIsBehind) {
  LatentCache cache(tiny_config(), model::Precision::kF32, 2, 300);
  cache.next_rows(10);
  cache.advance(10);
  const auto rows = cache.rows(4, 9);  // some before the length, some beyond
  ASSERT_EQ(rows.size(), 9);
  EXPECT_EQ(rows.front().position, 4);
  EXPECT_EQ(rows.back().position, 12);
  EXPECT_EQ(cache.length(), 10);
  EXPECT_THROW(cache.rows(295, 6), Error);
}

TEST(LatentCache, LimitIsWithinTheModels) {
  const model::ModelConfig config = tiny_config();
  EXPECT_THROW(LatentCache(config, model::Precision::kF32, 1, config.max_position_embeddings + 1),
               Error);
  EXPECT_THROW(LatentCache(config, model::Precision::kF32, 1, 0), Error);
  EXPECT_NO_THROW(LatentCache(config, model::Precision::kF32, 1, config.max_position_embeddings));
}

}  // namespace
}  // namespace minke::infer
