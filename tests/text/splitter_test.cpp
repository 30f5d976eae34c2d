// Pieces that no token crosses: by hand where text is ASCII, by regular expressions elsewhere.
#include "text/splitter.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace minke::text {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(const Splitter& splitter, std::string_view text) {
  Pieces out;
  splitter.split(text, [&](std::string_view piece) { out.emplace_back(piece); });
  return out;
}

// The same language in other words, which nothing but PCRE2 splits.
Splitter by_expressions() {
  auto patterns = deepseek_v3_patterns();
  for (std::string& pattern : patterns) pattern.insert(0, "(?:").append(")");
  return Splitter(patterns);
}

// Text of a few characters each of whose neighbourhoods is common.
std::string random_text(Rng& rng, const std::vector<std::string>& characters) {
  std::string out;
  for (uint64_t left = 1 + rng.below(40); left > 0; --left) {
    const auto& character = characters[rng.below(characters.size())];
    for (uint64_t times = rng.below(4) == 0 ? 1 + rng.below(5) : 1; times > 0; --times) {
      out += character;
    }
  }
  return out;
}

TEST(Splitter, ByHandAsByExpressions) {
  const Splitter by_hand(deepseek_v3_patterns()), expressions = by_expressions();
  const std::vector<std::string> ascii = {"a",  "Z",  "7",  " ",  " ", "\n",   "\r",   "\t",
                                          "\v", "\f", "'",  ".",  "(", "_",    "$",    "\x01",
                                          "`",  "~",  "\"", "\n", "s", "\x1f", "\x7f", "{"};
  auto mixed = ascii;
  for (const char* other :
       {"é", "一", "の", "½", "\u00a0", "\u2028", "—", "😀", "\xff", "\u0301"}) {
    mixed.emplace_back(other);
  }
  Rng rng(1);
  for (int i = 0; i < 30'000; ++i) {
    const std::string text = random_text(rng, i % 3 == 0 ? mixed : ascii);
    ASSERT_EQ(split(by_hand, text), split(expressions, text)) << testing::PrintToString(text);
  }
  // Every pair and triple of bytes.
  for (int a = 0; a < 128; ++a) {
    for (int b = 0; b < 128; ++b) {
      for (const char* tail : {"", "a", " ", "\n", "1", ".", " x", "\x01"}) {
        const std::string text = {static_cast<char>(a), static_cast<char>(b)};
        ASSERT_EQ(split(by_hand, text + tail), split(expressions, text + tail)) << a << " " << b;
      }
    }
  }
}

TEST(Splitter, PiecesAreTheText) {
  const Splitter splitter(deepseek_v3_patterns());
  const std::string text = "She said:\n\n  \"No 12345 —\r\nnever!\"\n\tif (x_1 > 0) {\n";
  std::string joined;
  for (const std::string& piece : split(splitter, text)) joined += piece;
  EXPECT_EQ(joined, text);
  EXPECT_TRUE(split(splitter, "").empty());
}

}  // namespace
}  // namespace minke::text
