// What an epoch makes of a document before documents are packed into rows (V3 report, section 4.1).
//
// Fill in the middle: some documents are cut at two places and become
//   BOS <fim_begin> prefix <fim_hole> suffix <fim_end> middle EOS.
// Split tokens: some of the tokens that join punctuation and line breaks become one of each, so
// that a model also knows texts that end between the two.
//
// Both are drawn by (seed, epoch, document): a row is the same whenever it is read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/tokenizer.h"

namespace minke::train {

// A part of a document in an epoch.
struct Segment {
  enum class Kind : uint8_t {
    kStored,   // tokens [first, first + count) of the document
    kSplit,    // of those, with some of them split
    kInserted  // tokens [first, first + count) of Layout::inserted
  };
  Kind kind = Kind::kStored;
  bool opens = false;  // the document begins here
  int64_t document = 0, first = 0, count = 0;
};

// Documents of an epoch, one after the other.
struct Layout {
  uint64_t seed = 0, epoch = 0;
  std::vector<Segment> segments;
  std::vector<int32_t> inserted;
};

// Appends what of an epoch comes after what is there.
void append(Layout& layout, const Layout& next);

class Rewriting {
 public:
  // Documents stay as they are.
  Rewriting() = default;
  // fim: the share of documents to be filled in the middle; split: of joined tokens to be split.
  // The tokenizer must outlive this. Error: it lacks what is asked for.
  Rewriting(double fim, double split, const text::Tokenizer& tokenizer);

  // Appends a document's segments; tokens are its own, from BOS to EOS.
  void add(int64_t document, std::span<const int32_t> tokens, Layout& layout) const;

  // About how many segments documents of so many tokens in all become.
  uint64_t segments(int64_t documents, int64_t tokens) const;

  // The tokens that a segment of the layout is; tokens are its document's. They lie in there, in
  // the layout, or in `buffer`.
  std::span<const int32_t> read(const Segment& segment, std::span<const int32_t> tokens,
                                const Layout& layout, std::vector<int32_t>& buffer) const;

 private:
  // Before byte `offset` of a token.
  struct Place {
    int64_t token = 0, offset = 0;
  };
  Place place_of(std::span<const int32_t> tokens, int64_t byte) const;
  void insert(std::span<const int32_t> inserted, int64_t document, Layout& layout) const;
  void add_stored(int64_t document, int64_t first, int64_t last, Layout& layout) const;
  void add_text(int64_t document, std::span<const int32_t> tokens, Place from, Place to,
                Layout& layout) const;
  // Whether it was drawn to be filled in the middle, and is now there.
  bool add_fim(int64_t document, std::span<const int32_t> tokens, Layout& layout) const;

  double fim_ = 0, split_ = 0;
  const text::Tokenizer* tokenizer_ = nullptr;
  int32_t fim_begin_ = 0, fim_hole_ = 0, fim_end_ = 0;
  std::vector<std::vector<int32_t>> parts_;  // by token: what it is split into; empty: it is not
};

}  // namespace minke::train
