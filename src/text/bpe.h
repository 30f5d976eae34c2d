// Byte-pair encoding: the merges of a vocabulary, applied to a piece of text by rank.
#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace minke::text {

struct Merge {
  int32_t left = 0, right = 0, result = 0;
};

class Bpe {
 public:
  // byte_ids: the token of each single byte. merges in order of rank: the lowest is applied first.
  // Error for a pair that is merged twice.
  Bpe(std::vector<int32_t> byte_ids, const std::vector<Merge>& merges);

  // Appends the tokens of a piece (any bytes).
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  struct Entry {
    uint64_t pair = ~uint64_t{0};
    int32_t rank = 0, result = 0;
  };
  const Entry* find(int32_t left, int32_t right) const;
  void encode_short(std::vector<int32_t>& parts) const;
  void encode_long(std::vector<int32_t>& parts) const;

  std::vector<int32_t> byte_ids_;
  std::vector<Entry> table_;  // open addressing; a power of two
};

}  // namespace minke::text
