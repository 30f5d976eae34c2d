#include "base/hash.h"

#include <gtest/gtest.h>

#include <string>

namespace minke {
namespace {

// Hashes stand in files (shards, manifests), so they may never change.
TEST(Hash, KnownAnswersOfXXH3) {
  EXPECT_EQ(hash64("", 0), 0x2d06800538d394c2U);
  Hasher empty;
  EXPECT_EQ(empty.hex(), "99aa06d3014798d86001c324468d497f");
}

TEST(Hash, PiecesHashAsTheWhole) {
  std::string text;
  for (int i = 0; i < 10000; ++i) text += static_cast<char>(i * 7);
  Hasher whole, pieces;
  whole.add(text);
  for (size_t at = 0; at < text.size(); at += 333) {
    pieces.add(std::string_view(text).substr(at, 333));
  }
  EXPECT_EQ(whole.hex(), pieces.hex());
  EXPECT_EQ(whole.hex().size(), 32U);
  text[5000] = static_cast<char>(text[5000] ^ 1);
  Hasher other;
  other.add(text);
  EXPECT_NE(other.hex(), whole.hex());
}

}  // namespace
}  // namespace minke
