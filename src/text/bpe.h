// Byte-pair encoding: the merges of a vocabulary, applied to a piece of text by rank.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace minke::text {

struct Merge {
  int32_t left = 0, right = 0, result = 0;
  int32_t rank = 0;  // the lowest is applied first; of equals the leftmost
};

// The tokens that a piece is before anything is merged.
struct Symbols {
  std::vector<int32_t> bytes;  // of each single byte
  // Of each character that has a token; any other is its bytes. Empty: every character is.
  std::unordered_map<std::string, int32_t> characters = {};
};

class Bpe {
 public:
  // Error for a pair that is merged twice.
  Bpe(Symbols symbols, const std::vector<Merge>& merges);

  // Appends the tokens of a piece (any bytes).
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  struct Entry {
    uint64_t pair = ~uint64_t{0};
    int32_t rank = 0, result = 0;
  };
  const Entry* find(int32_t left, int32_t right) const;
  void append_symbols(std::string_view piece, std::vector<int32_t>& parts) const;
  void encode_short(std::vector<int32_t>& parts) const;
  void encode_long(std::vector<int32_t>& parts) const;

  Symbols symbols_;
  std::vector<Entry> table_;  // open addressing; a power of two
};

}  // namespace minke::text
