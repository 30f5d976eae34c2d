#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <queue>

#include "base/error.h"
#include "text/utf8.h"

namespace minke::text {
namespace {

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t slot_of(uint64_t pair, size_t size) {
  return (pair * 0x9E3779B97F4A7C15ULL >> 20) & (size - 1);
}

// Up to here a scan over all pairs for each merge is faster than a heap.
constexpr size_t kShort = 48;

}  // namespace

Bpe::Bpe(Symbols symbols, const std::vector<Merge>& merges)
    : symbols_(std::move(symbols)), table_(std::bit_ceil(2 * merges.size() + 2)) {
  MINKE_CHECK(symbols_.bytes.size() == 256);
  for (const Merge& merge : merges) {
    const uint64_t pair = pair_of(merge.left, merge.right);
    size_t slot = slot_of(pair, table_.size());
    while (table_[slot].pair != ~uint64_t{0}) {
      if (table_[slot].pair == pair)
        fail("merge {} repeats merge {}", merge.rank, table_[slot].rank);
      slot = (slot + 1) & (table_.size() - 1);
    }
    table_[slot] = {pair, merge.rank, merge.result};
  }
}

const Bpe::Entry* Bpe::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (size_t slot = slot_of(pair, table_.size());; slot = (slot + 1) & (table_.size() - 1)) {
    if (table_[slot].pair == pair) return &table_[slot];
    if (table_[slot].pair == ~uint64_t{0}) return nullptr;
  }
}

void Bpe::append_symbols(std::string_view piece, std::vector<int32_t>& parts) const {
  if (symbols_.characters.empty()) {
    for (const char byte : piece) parts.push_back(symbols_.bytes[static_cast<uint8_t>(byte)]);
    return;
  }
  std::string character;
  for (size_t at = 0; at < piece.size(); at += character.size()) {
    character = piece.substr(at, std::max<size_t>(1, character_size(piece.substr(at))));
    const auto found = symbols_.characters.find(character);
    if (found != symbols_.characters.end()) {
      parts.push_back(found->second);
      continue;
    }
    for (const char byte : character) parts.push_back(symbols_.bytes[static_cast<uint8_t>(byte)]);
  }
}

void Bpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  thread_local std::vector<int32_t> parts;
  parts.clear();
  append_symbols(piece, parts);
  if (parts.size() <= kShort) {
    encode_short(parts);
  } else {
    encode_long(parts);
  }
  ids.insert(ids.end(), parts.begin(), parts.end());
}

void Bpe::encode_short(std::vector<int32_t>& parts) const {
  const Entry* pairs[kShort];
  for (size_t i = 0; i + 1 < parts.size(); ++i) pairs[i] = find(parts[i], parts[i + 1]);
  while (parts.size() > 1) {
    size_t best = 0;
    int32_t rank = std::numeric_limits<int32_t>::max();
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      if (pairs[i] != nullptr && pairs[i]->rank < rank) {
        rank = pairs[i]->rank;
        best = i;
      }
    }
    if (rank == std::numeric_limits<int32_t>::max()) return;
    parts[best] = pairs[best]->result;
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    for (size_t i = best + 1; i + 1 < parts.size(); ++i) pairs[i] = pairs[i + 1];
    if (best + 1 < parts.size()) pairs[best] = find(parts[best], parts[best + 1]);
    if (best > 0) pairs[best - 1] = find(parts[best - 1], parts[best]);
  }
}

// A linked list of parts, and a heap of candidate merges by rank, then place; stale ones are passed
// over.
void Bpe::encode_long(std::vector<int32_t>& parts) const {
  struct Node {
    int32_t id = 0;
    size_t before = 0, after = 0;
  };
  struct Candidate {
    int32_t rank = 0;
    size_t at = 0;
    int32_t left = 0, right = 0, result = 0;
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const size_t n = parts.size(), none = n;
  std::vector<Node> nodes(n);
  std::priority_queue<Candidate> heap;
  const auto consider = [&](size_t at) {
    if (at == none || nodes[at].after == none) return;
    const int32_t left = nodes[at].id, right = nodes[nodes[at].after].id;
    if (const Entry* entry = find(left, right)) {
      heap.push({entry->rank, at, left, right, entry->result});
    }
  };
  for (size_t i = 0; i < n; ++i) nodes[i] = {parts[i], i == 0 ? none : i - 1, i + 1};
  for (size_t i = 0; i < n; ++i) consider(i);
  constexpr int32_t kGone = -1;
  while (!heap.empty()) {
    const Candidate c = heap.top();
    heap.pop();
    Node& node = nodes[c.at];
    if (node.id != c.left || node.after == none || nodes[node.after].id != c.right) continue;
    Node& gone = nodes[node.after];
    node.id = c.result;
    gone.id = kGone;
    node.after = gone.after;
    if (node.after != none) nodes[node.after].before = c.at;
    consider(c.at);
    consider(node.before);
  }
  parts.clear();
  for (size_t i = 0; i != none; i = nodes[i].after) parts.push_back(nodes[i].id);
}

}  // namespace minke::text
