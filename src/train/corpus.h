// The documents to learn from, and those of them that are held out where no held-out text is named.
//
// Held out are whole documents, drawn by seed, until they have the share of the bytes that was
// asked for; one that would carry them beyond twice the share is passed over. Where that finds less
// than half of the share, the end of one document is held out, too, from a line break on; where
// none can be cut so, the smallest is held out whole.
#pragma once

#include <optional>
#include <span>

#include "train/source.h"

namespace minke::train {

// What the choice is made by.
struct DocumentSize {
  int64_t bytes = 0;
  int64_t line_break = -1;  // the first in its second half; none (and no conversation has one): -1
};

struct HeldOutChoice {
  std::vector<int64_t> documents;  // whole ones, by their place in the corpus, ascending
  int64_t cut = -1;                // the document whose end is held out; -1: none is cut
  int64_t tail_bytes = 0;          // that this end has at least
};

// Never all of the documents. Of a single one that cannot be cut: nothing.
HeldOutChoice choose_held_out(std::span<const DocumentSize> documents, double fraction,
                              uint64_t seed);

class Corpus {
 public:
  // held_out: share of the bytes, 0 (nothing is held out) to less than 1.
  explicit Corpus(std::vector<SourceFile> files, std::string text_field = "text",
                  double held_out = 0, uint64_t seed = 0);

  const std::vector<SourceFile>& files() const { return files_; }
  // What decides, beside the bytes of the files, which documents are read.
  std::string settings() const;

  // Calls on_document(document, whether it is held out) for each in order; of one that is cut, for
  // both parts. The first time, what is held out is chosen, for which all is read. Error as
  // read_documents', for a single document that cannot be cut, or an interrupt.
  PassedOver read(const std::function<void(Document&&, bool)>& on_document) const;

 private:
  const HeldOutChoice& choice() const;

  std::vector<SourceFile> files_;
  std::string text_field_;
  double held_out_;
  uint64_t seed_;
  mutable std::optional<HeldOutChoice> choice_;
};

}  // namespace minke::train
