#include "train/rewriting.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/rng.h"

namespace minke::train {
namespace {

// Tokens that are split are read from the beginning of their segment.
constexpr int64_t kSplitTokens = 4096;

int32_t reserved(const text::Tokenizer& tokenizer, const char* name) {
  const auto id = tokenizer.added_id(name);
  if (!id) {
    fail("--fim: the tokenizer has no token {}; one that minke trains, or DeepSeek's, has", name);
  }
  return *id;
}

// A token's punctuation and line breaks apart, each as the tokenizer has it; empty for other
// tokens.
std::vector<int32_t> parts_of(const text::Tokenizer& tokenizer, int32_t id) {
  const std::string_view bytes = tokenizer.bytes_of(id);
  const size_t breaks = bytes.find_first_of("\r\n");
  if (breaks == std::string_view::npos || breaks == 0) return {};
  // No pre-tokenisation joins line breaks with letters or digits, only with spaces or punctuation.
  if (bytes.substr(0, breaks).find_last_not_of(" \t") != breaks - 1) return {};
  std::vector<int32_t> parts = tokenizer.encode(bytes.substr(0, breaks));
  const std::vector<int32_t> rest = tokenizer.encode(bytes.substr(breaks));
  parts.insert(parts.end(), rest.begin(), rest.end());
  return parts;
}

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

Rewriting::Rewriting(double fim, double split, const text::Tokenizer& tokenizer)
    : fim_(fim), split_(split), tokenizer_(&tokenizer) {
  const text::TokenizerParts& parts = tokenizer.parts();
  if ((fim > 0 || split > 0) && (parts.byte_fallback || !parts.normalizers.empty())) {
    fail(
        "--fim, --split-punctuation: expected a byte-level tokenizer without normalizers, of which "
        "any part of a text is tokens of its own");
  }
  if (fim > 0) {
    fim_begin_ = reserved(tokenizer, "<｜fim▁begin｜>");
    fim_hole_ = reserved(tokenizer, "<｜fim▁hole｜>");
    fim_end_ = reserved(tokenizer, "<｜fim▁end｜>");
  }
  if (split == 0) return;
  parts_.resize(parts.tokens.size());
  for (size_t id = 0; id < parts_.size(); ++id) {
    if (!parts.tokens[id].empty()) parts_[id] = parts_of(tokenizer, static_cast<int32_t>(id));
  }
  if (std::ranges::all_of(parts_, [](const auto& p) { return p.empty(); })) {
    fail("--split-punctuation: no token of the tokenizer joins punctuation and line breaks");
  }
}

void append(Layout& layout, const Layout& next) {
  const int64_t before = std::ssize(layout.inserted);
  layout.inserted.insert(layout.inserted.end(), next.inserted.begin(), next.inserted.end());
  for (Segment segment : next.segments) {
    if (segment.kind == Segment::Kind::kInserted) segment.first += before;
    layout.segments.push_back(segment);
  }
}

uint64_t Rewriting::segments(int64_t documents, int64_t tokens) const {
  // Four that are inserted, three texts, and the two sides of both cuts.
  constexpr double kOfFim = 11;
  const double split = split_ > 0 ? static_cast<double>(tokens) / kSplitTokens : 0;
  return static_cast<uint64_t>(static_cast<double>(documents) * (1 + fim_ * kOfFim) + split);
}

void Rewriting::add(int64_t document, std::span<const int32_t> tokens, Layout& layout) const {
  const size_t opening = layout.segments.size();
  if (!add_fim(document, tokens, layout)) add_stored(document, 0, std::ssize(tokens), layout);
  layout.segments[opening].opens = true;
}

// Of byte `byte` of the text, or of the character's first where it lies within one.
Rewriting::Place Rewriting::place_of(std::span<const int32_t> tokens, int64_t byte) const {
  const auto bytes = [&](int64_t i) {
    return tokenizer_->bytes_of(tokens[static_cast<size_t>(i)]);
  };
  Place at{1, byte};
  const int64_t end = std::ssize(tokens) - 1;
  while (at.token < end && at.offset >= std::ssize(bytes(at.token))) {
    at.offset -= std::ssize(bytes(at.token++));
  }
  while (at.token < end && continues_character(bytes(at.token)[static_cast<size_t>(at.offset)])) {
    if (at.offset == 0) at.offset = std::ssize(bytes(--at.token));
    --at.offset;
  }
  return at;
}

void Rewriting::insert(std::span<const int32_t> inserted, int64_t document, Layout& layout) const {
  layout.segments.push_back({Segment::Kind::kInserted, false, document, std::ssize(layout.inserted),
                             std::ssize(inserted)});
  layout.inserted.insert(layout.inserted.end(), inserted.begin(), inserted.end());
}

void Rewriting::add_stored(int64_t document, int64_t first, int64_t last, Layout& layout) const {
  const int64_t most = split_ > 0 ? kSplitTokens : last - first;
  for (; first < last; first += most) {
    layout.segments.push_back({split_ > 0 ? Segment::Kind::kSplit : Segment::Kind::kStored, false,
                               document, first, std::min(most, last - first)});
  }
}

// A token that a cut goes through becomes tokens of its two parts.
void Rewriting::add_text(int64_t document, std::span<const int32_t> tokens, Place from, Place to,
                         Layout& layout) const {
  const auto insert_part = [&](int64_t token, int64_t begin, int64_t end) {
    const std::string_view bytes = tokenizer_->bytes_of(tokens[static_cast<size_t>(token)]);
    insert(tokenizer_->encode(
               bytes.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin))),
           document, layout);
  };
  if (from.token == to.token) {
    if (from.offset < to.offset) insert_part(from.token, from.offset, to.offset);
    return;
  }
  if (from.offset > 0) {
    const int32_t token = tokens[static_cast<size_t>(from.token)];
    insert_part(from.token, from.offset, std::ssize(tokenizer_->bytes_of(token)));
    ++from.token;
  }
  add_stored(document, from.token, to.token, layout);
  if (to.offset > 0) insert_part(to.token, 0, to.offset);
}

bool Rewriting::add_fim(int64_t document, std::span<const int32_t> tokens, Layout& layout) const {
  if (fim_ == 0) return false;
  Rng rng(stream_key(layout.seed, layout.epoch, fmt::format("data.fim.{}", document)));
  if (rng.uniform() >= fim_) return false;
  uint64_t bytes = 0;
  for (const int32_t token : tokens.subspan(1, tokens.size() - 2)) {
    bytes += tokenizer_->bytes_of(token).size();
  }
  std::array<int64_t, 2> cuts{};
  for (int64_t& cut : cuts) cut = static_cast<int64_t>(rng.below(bytes + 1));
  std::ranges::sort(cuts);
  const Place begin{1, 0}, end{std::ssize(tokens) - 1, 0};
  const Place first = place_of(tokens, cuts[0]), second = place_of(tokens, cuts[1]);
  insert(std::array{tokens.front(), fim_begin_}, document, layout);
  add_text(document, tokens, begin, first, layout);
  insert(std::array{fim_hole_}, document, layout);
  add_text(document, tokens, second, end, layout);
  insert(std::array{fim_end_}, document, layout);
  add_text(document, tokens, first, second, layout);
  insert(std::array{tokens.back()}, document, layout);
  return true;
}

std::span<const int32_t> Rewriting::read(const Segment& segment, std::span<const int32_t> tokens,
                                         const Layout& layout, std::vector<int32_t>& buffer) const {
  const auto part = [&](std::span<const int32_t> all) {
    return all.subspan(static_cast<size_t>(segment.first), static_cast<size_t>(segment.count));
  };
  if (segment.kind == Segment::Kind::kInserted) return part(layout.inserted);
  if (segment.kind == Segment::Kind::kStored) return part(tokens);
  Rng rng(stream_key(layout.seed, layout.epoch,
                     fmt::format("data.split.{}.{}", segment.document, segment.first)));
  buffer.clear();
  for (const int32_t token : part(tokens)) {
    const auto id = static_cast<size_t>(token);
    const bool joined = id < parts_.size() && !parts_[id].empty();
    if (joined && rng.uniform() < split_) {
      buffer.insert(buffer.end(), parts_[id].begin(), parts_[id].end());
    } else {
      buffer.push_back(token);
    }
  }
  return buffer;
}

}  // namespace minke::train
