// What is done to text before it is split: the normalizers of tokenizer.json.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace minke::text {

struct Normalizer {
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kPrepend, kReplace };
  Kind kind = Kind::kNfc;
  std::string from, to;  // kReplace: every `from` becomes `to`; kPrepend: `to` comes first
};

// The text after all of them, in order. Bytes that are not UTF-8 stay as they are, and no character
// composes across them. No text stays no text.
std::string normalize(const std::vector<Normalizer>& normalizers, std::string_view text);

}  // namespace minke::text
