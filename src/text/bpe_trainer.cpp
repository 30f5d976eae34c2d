#include "text/bpe_trainer.h"

#include <algorithm>
#include <mutex>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/thread_pool.h"
#include "text/splitter.h"

namespace minke::text {
namespace {

using WordCounts = std::unordered_map<std::string, int64_t>;

// Texts are cut at line ends into portions of about this size for the threads. A word may so be cut
// in two where a run of line ends is, always at the same place.
constexpr size_t kPortion = 1 << 18;

std::vector<std::string_view> portions_of(const std::vector<std::string_view>& texts) {
  std::vector<std::string_view> out;
  for (std::string_view text : texts) {
    while (text.size() > kPortion) {
      size_t end = text.find('\n', kPortion);
      end = end == std::string_view::npos ? text.size() : end + 1;
      out.push_back(text.substr(0, end));
      text.remove_prefix(end);
    }
    if (!text.empty()) out.push_back(text);
  }
  return out;
}

WordCounts count_words(const std::vector<std::string_view>& texts) {
  const Splitter splitter(deepseek_v3_patterns());
  const auto portions = portions_of(texts);
  WordCounts total;
  std::mutex mutex;
  parallel_for(std::ssize(portions), 1, [&](int64_t begin, int64_t end) {
    WordCounts counts;
    for (int64_t i = begin; i < end; ++i) {
      splitter.split(portions[static_cast<size_t>(i)],
                     [&](std::string_view word) { ++counts[std::string(word)]; });
    }
    const std::lock_guard lock(mutex);
    for (const auto& [word, count] : counts) total[word] += count;
  });
  return total;
}

struct Word {
  std::vector<int32_t> ids;
  int64_t count = 0;
};

using Pair = std::pair<int32_t, int32_t>;
struct PairHash {
  size_t operator()(const Pair& p) const {
    return (static_cast<uint64_t>(static_cast<uint32_t>(p.first)) << 32 |
            static_cast<uint32_t>(p.second)) *
           0x9E3779B97F4A7C15ULL;
  }
};

struct Candidate {
  int64_t count = 0;
  Pair pair;
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

// Counts of neighbouring pairs over all words, kept as merges are made.
class PairTable {
 public:
  explicit PairTable(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t w = 0; w < words_.size(); ++w) {
      const auto& ids = words_[w].ids;
      for (size_t i = 0; i + 1 < ids.size(); ++i) add({ids[i], ids[i + 1]}, words_[w].count, w);
    }
    for (const auto& [pair, count] : counts_) heap_.push({count, pair});
  }

  // The pair that stands most often, at least twice; nothing when there is none.
  std::optional<Pair> best() {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const int64_t now = counts_[top.pair];
      if (now == top.count) return now >= 2 ? std::optional(top.pair) : std::nullopt;
      if (now > 0) heap_.push({now, top.pair});  // it was counted before other merges
    }
    return std::nullopt;
  }

  void merge(const Pair& pair, int32_t result) {
    const auto where = std::move(words_with_[pair]);
    words_with_.erase(pair);
    std::unordered_set<Pair, PairHash> grown;
    for (const size_t w : where) merge_in(w, pair, result, grown);
    counts_.erase(pair);
    for (const Pair& p : grown) heap_.push({counts_[p], p});
  }

 private:
  void add(const Pair& pair, int64_t count, size_t word) {
    counts_[pair] += count;
    if (count > 0) words_with_[pair].insert(word);
  }

  void merge_in(size_t w, const Pair& pair, int32_t result,
                std::unordered_set<Pair, PairHash>& grown) {
    auto& ids = words_[w].ids;
    const int64_t count = words_[w].count;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      if (ids[i] != pair.first || ids[i + 1] != pair.second) continue;
      if (i > 0) {
        add({ids[i - 1], ids[i]}, -count, w);
        add({ids[i - 1], result}, count, w);
        grown.insert({ids[i - 1], result});
      }
      if (i + 2 < ids.size()) {
        add({ids[i + 1], ids[i + 2]}, -count, w);
        add({result, ids[i + 2]}, count, w);
        grown.insert({result, ids[i + 2]});
      }
      ids[i] = result;
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    }
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, int64_t, PairHash> counts_;
  std::unordered_map<Pair, std::unordered_set<size_t>, PairHash> words_with_;
  std::priority_queue<Candidate> heap_;
};

}  // namespace

const std::vector<std::string>& reserved_tokens() {
  static const std::vector<std::string> names = {
      "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜fim▁begin｜>",
      "<｜fim▁hole｜>",          "<｜fim▁end｜>",         "<｜User｜>",  "<｜Assistant｜>"};
  return names;
}

int64_t least_vocabulary() { return std::ssize(reserved_tokens()) + 256 + 1; }

Tokenizer train_bpe(const std::vector<std::string_view>& texts, int64_t vocabulary,
                    const std::function<void(double)>& progress) {
  TokenizerParts parts;
  parts.patterns = deepseek_v3_patterns();
  if (vocabulary < least_vocabulary() || vocabulary > kLargestVocabulary) {
    fail("a vocabulary of {}: expected from {} to {}", vocabulary, least_vocabulary(),
         kLargestVocabulary);
  }
  for (const std::string& name : reserved_tokens()) {
    parts.added.push_back({static_cast<int32_t>(parts.tokens.size()), name, true});
    parts.tokens.emplace_back();
  }
  parts.bos = reserved_tokens()[0];
  parts.eos = reserved_tokens()[1];
  parts.add_bos = true;
  const auto first_byte = static_cast<int32_t>(parts.tokens.size());
  for (int b = 0; b < 256; ++b) parts.tokens.emplace_back(1, static_cast<char>(b));

  std::vector<Word> words;
  for (const auto& [word, count] : count_words(texts)) {
    Word w{{}, count};
    for (const char c : word) w.ids.push_back(first_byte + static_cast<uint8_t>(c));
    words.push_back(std::move(w));
  }
  if (words.empty()) fail("no text to learn a tokenizer from");
  PairTable pairs(std::move(words));
  std::unordered_map<std::string, int32_t> ids;
  for (size_t i = static_cast<size_t>(first_byte); i < parts.tokens.size(); ++i) {
    ids[parts.tokens[i]] = static_cast<int32_t>(i);
  }
  while (std::ssize(parts.tokens) < vocabulary) {
    const auto pair = pairs.best();
    if (!pair) break;
    const std::string bytes = parts.tokens[static_cast<size_t>(pair->first)] +
                              parts.tokens[static_cast<size_t>(pair->second)];
    // Other merges may lead to the same bytes: then both make the same token.
    const auto [found, fresh] = ids.emplace(bytes, static_cast<int32_t>(parts.tokens.size()));
    if (fresh) parts.tokens.push_back(bytes);
    parts.merges.push_back(*pair);
    pairs.merge(*pair, found->second);
    if (progress) {
      progress(static_cast<double>(parts.tokens.size()) / static_cast<double>(vocabulary));
    }
  }
  return Tokenizer(std::move(parts));
}

}  // namespace minke::text
