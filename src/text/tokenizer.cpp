#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <unordered_map>

#include "base/error.h"
#include "base/hash.h"
#include "text/bpe.h"
#include "text/splitter.h"
#include "text/utf8.h"

namespace minke::text {
namespace {

// Words repeat: their tokens are kept a thread, and forgotten all at once when they are many.
constexpr size_t kCachedWords = 1 << 16;
constexpr size_t kLongestCached = 64;

struct WordHash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return hash64(s.data(), s.size()); }
};
using IdsByWord = std::unordered_map<std::string, std::vector<int32_t>, WordHash, std::equal_to<>>;

// A thread's words of the tokenizer it used last. Serial numbers, not addresses, tell tokenizers
// apart: a new one may lie where an old one lay.
struct WordCache {
  uint64_t owner = 0;
  IdsByWord words;
};

uint64_t next_serial() {
  static std::atomic<uint64_t> last = 0;
  return ++last;
}

std::string hash_of(const TokenizerParts& parts) {
  Hasher hasher;
  const auto add = [&](std::string_view text) {
    const uint64_t size = text.size();
    hasher.add(&size, sizeof size);
    hasher.add(text);
  };
  for (const std::string& pattern : parts.patterns) add(pattern);
  for (const std::string& token : parts.tokens) add(token);
  hasher.add(parts.merges.data(), parts.merges.size() * sizeof parts.merges[0]);
  for (const AddedToken& token : parts.added) {
    hasher.add(&token.id, sizeof token.id);
    add(token.content);
  }
  // What most tokenizers do not have adds nothing to their hashes.
  for (const Normalizer& step : parts.normalizers) {
    add(fmt::format("normalizer {}", static_cast<int>(step.kind)));
    add(step.from);
    add(step.to);
  }
  if (parts.merges_by_id) add("merges_by_id");
  if (parts.whole_pieces) add("whole_pieces");
  if (parts.byte_fallback) add("byte_fallback");
  return hasher.hex();
}

// The byte that a token of byte_fallback stands for: <0x0A>.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return {};
  unsigned value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc() || end != token.data() + 5) return {};
  return static_cast<char>(value);
}

}  // namespace

struct Tokenizer::Impl {
  TokenizerParts parts;
  Splitter splitter;
  std::unique_ptr<Bpe> bpe;
  std::vector<std::string> decoded;                   // of byte_fallback: text of each id
  std::vector<std::string_view> bytes;                // of every id, added ones too
  std::vector<int32_t> holes;                         // ids without bytes
  std::unordered_map<std::string_view, int32_t> ids;  // by a token's bytes
  std::vector<std::string> control_by_length;         // contents of added tokens, longest first
  std::array<bool, 256> begins_control{};             // first bytes of added tokens
  std::unordered_map<std::string, int32_t> added;
  std::vector<bool> special;
  std::string hash;
  const uint64_t serial = next_serial();

  explicit Impl(TokenizerParts p) : parts(std::move(p)), splitter(parts.patterns) {
    index_added();
    make_bpe();
    hash = hash_of(parts);
  }

  void index_added() {
    size_t count = parts.tokens.size();
    for (const AddedToken& token : parts.added) {
      if (token.id < 0 || token.content.empty())
        fail("an added token has no content, or id {}", token.id);
      count = std::max(count, static_cast<size_t>(token.id) + 1);
    }
    // Ids may have holes (padding rows that no token fills), but not many more than tokens.
    constexpr size_t kMostHoles = 1 << 20;
    if (count > parts.tokens.size() + parts.added.size() + kMostHoles) {
      fail("an added token has id {}, far beyond the vocabulary of {}", count - 1,
           parts.tokens.size());
    }
    bytes.resize(count);
    special.resize(count);
    if (parts.byte_fallback) decode_tokens();
    const auto& contents = parts.byte_fallback ? decoded : parts.tokens;
    for (size_t i = 0; i < contents.size(); ++i) bytes[i] = contents[i];
    for (const AddedToken& token : parts.added) {
      const auto at = static_cast<size_t>(token.id);
      if (!added.emplace(token.content, token.id).second) {
        fail("added token {} stands twice", token.content);
      }
      // Text that is that other token would become the control token.
      if (!bytes[at].empty()) {
        fail("added token {} has id {}, which is another token's", token.content, token.id);
      }
      bytes[at] = token.content;
      special[at] = token.special;
      begins_control[static_cast<uint8_t>(token.content[0])] = true;
      control_by_length.push_back(token.content);
    }
    std::ranges::stable_sort(control_by_length, std::ranges::greater{}, &std::string::size);
    for (size_t i = 0; i < bytes.size(); ++i) {
      if (bytes[i].empty()) holes.push_back(static_cast<int32_t>(i));
    }
  }

  void decode_tokens() {
    for (const std::string& token : parts.tokens) {
      const auto byte = byte_of(token);
      decoded.push_back(byte ? std::string(1, *byte) : normalize(parts.decoding, token));
    }
  }

  void make_bpe() {
    ids.reserve(parts.tokens.size());
    for (size_t i = 0; i < parts.tokens.size(); ++i) {
      if (parts.tokens[i].empty()) continue;
      if (!ids.emplace(parts.tokens[i], static_cast<int32_t>(i)).second) {
        fail("tokens {} and {} are the same bytes", ids[parts.tokens[i]], i);
      }
    }
    bpe = std::make_unique<Bpe>(symbols(), parts.merges_by_id ? merges_by_id() : listed_merges());
  }

  Symbols symbols() const {
    Symbols out;
    for (int b = 0; b < 256; ++b) {
      const std::string name =
          parts.byte_fallback ? fmt::format("<0x{:02X}>", b) : std::string(1, static_cast<char>(b));
      const auto found = ids.find(name);
      if (found == ids.end()) {
        fail(
            "byte {:#04x} has no token: neither a byte-level vocabulary nor one with byte fallback",
            b);
      }
      out.bytes.push_back(found->second);
    }
    if (!parts.byte_fallback) return out;
    for (const auto& [token, id] : ids) {
      if (character_size(token) == token.size()) out.characters.emplace(token, id);
    }
    return out;
  }

  std::vector<Merge> listed_merges() const {
    std::vector<Merge> merges;
    merges.reserve(parts.merges.size());
    for (const auto& [left, right] : parts.merges) {
      const auto size = static_cast<int32_t>(parts.tokens.size());
      if (left < 0 || right < 0 || left >= size || right >= size) fail("a merge names no token");
      const std::string joined =
          parts.tokens[static_cast<size_t>(left)] + parts.tokens[static_cast<size_t>(right)];
      const auto found = ids.find(joined);
      if (found == ids.end()) fail("merge {} makes a text that is no token", merges.size());
      merges.push_back({left, right, found->second, static_cast<int32_t>(merges.size())});
    }
    return merges;
  }

  std::vector<Merge> merges_by_id() const {
    std::vector<Merge> merges;
    for (const auto& [token, id] : ids) {
      for (size_t cut = 1; cut < token.size(); ++cut) {
        const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
        if (left == ids.end() || right == ids.end()) continue;
        merges.push_back({left->second, right->second, id, id});
      }
    }
    return merges;
  }

  std::optional<int32_t> id_of(std::string_view content) const {
    const auto found = added.find(std::string(content));
    return found == added.end() ? std::nullopt : std::optional(found->second);
  }

  void encode_fresh(std::string_view word, std::vector<int32_t>& out) const {
    if (parts.whole_pieces) {
      if (const auto found = ids.find(word); found != ids.end()) {
        out.push_back(found->second);
        return;
      }
    }
    bpe->encode(word, out);
  }

  void encode_word(std::string_view word, std::vector<int32_t>& out) const {
    if (word.size() > kLongestCached) {
      encode_fresh(word, out);
      return;
    }
    thread_local WordCache cache;
    if (cache.owner != serial || cache.words.size() >= kCachedWords) {
      cache.owner = serial;
      cache.words.clear();
    }
    auto found = cache.words.find(word);
    if (found == cache.words.end()) {
      std::vector<int32_t> fresh;
      encode_fresh(word, fresh);
      found = cache.words.emplace(word, std::move(fresh)).first;
    }
    out.insert(out.end(), found->second.begin(), found->second.end());
  }

  void encode(std::string_view text, std::vector<int32_t>& out) const {
    std::string normal;
    if (!parts.normalizers.empty()) text = normal = normalize(parts.normalizers, text);
    splitter.split(text, [&](std::string_view word) { encode_word(word, out); });
  }
};

Tokenizer::Tokenizer(TokenizerParts parts) : impl_(std::make_unique<Impl>(std::move(parts))) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3);
  impl_->encode(text, ids);
  return ids;
}

std::vector<int32_t> Tokenizer::encode_control(std::string_view text) const {
  std::vector<int32_t> ids;
  split_control(
      text, [&](std::string_view between) { impl_->encode(between, ids); },
      [&](int32_t id) { ids.push_back(id); });
  return ids;
}

void Tokenizer::split_control(std::string_view text,
                              const std::function<void(std::string_view)>& on_text,
                              const std::function<void(int32_t)>& on_token) const {
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const std::string* found = nullptr;
    if (impl_->begins_control[static_cast<uint8_t>(text[i])]) {
      for (const std::string& content : impl_->control_by_length) {
        if (text.substr(i).starts_with(content)) {
          found = &content;
          break;
        }
      }
    }
    if (found == nullptr) {
      ++i;
      continue;
    }
    if (begin < i) on_text(text.substr(begin, i - begin));
    on_token(impl_->added.at(*found));
    i += found->size();
    begin = i;
  }
  if (begin < text.size()) on_text(text.substr(begin));
}

std::string_view Tokenizer::bytes_of(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= impl_->bytes.size() ||
      impl_->bytes[static_cast<size_t>(id)].empty()) {
    fail("{} is the id of no token", id);
  }
  return impl_->bytes[static_cast<size_t>(id)];
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string out;
  for (const int32_t id : ids) out += bytes_of(id);
  if (impl_->parts.strips_space && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

int64_t Tokenizer::vocabulary() const { return std::ssize(impl_->bytes); }
const std::vector<int32_t>& Tokenizer::holes() const { return impl_->holes; }
std::optional<int32_t> Tokenizer::bos() const { return impl_->id_of(impl_->parts.bos); }
std::optional<int32_t> Tokenizer::eos() const { return impl_->id_of(impl_->parts.eos); }
bool Tokenizer::add_bos() const { return impl_->parts.add_bos; }
const std::string& Tokenizer::chat_template() const { return impl_->parts.chat_template; }
std::optional<int32_t> Tokenizer::added_id(std::string_view content) const {
  return impl_->id_of(content);
}
bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < impl_->special.size() &&
         impl_->special[static_cast<size_t>(id)];
}
const std::string& Tokenizer::hash() const { return impl_->hash; }
const TokenizerParts& Tokenizer::parts() const { return impl_->parts; }

std::string StreamDecoder::add(int32_t id) {
  held_ += tokenizer_.bytes_of(id);
  // A character is at most four bytes; one that is begun at the very end is held back.
  size_t whole = held_.size();
  for (size_t back = 1; back <= std::min<size_t>(3, held_.size()); ++back) {
    const auto byte = static_cast<uint8_t>(held_[held_.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;
    const size_t length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    if (length > back) whole = held_.size() - back;
    break;
  }
  std::string out = held_.substr(0, whole);
  held_.erase(0, whole);
  return out;
}

std::string StreamDecoder::finish() { return std::exchange(held_, {}); }

}  // namespace minke::text
