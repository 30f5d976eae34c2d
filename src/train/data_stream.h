// The endless stream of rows that training reads: any row by its index, so that a run resumes at a
// row by its number alone.
//
// An epoch is every document once, rewritten for that epoch unless it is a conversation, in an
// order drawn by (seed, epoch), one after the other in a ring. From a place drawn by (seed, epoch)
// the ring is cut every S tokens; a row is such a piece and the tokens after it that its last
// positions have to predict (1, and one more for each MTP depth). Rows come in an order drawn by
// (seed, epoch): a book is many rows, which should not follow each other. Fewer than S tokens are
// left over, and as many as rewriting added; others in each epoch.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "train/data.h"
#include "train/rewriting.h"

namespace minke::train {

class TokenStream {
 public:
  // Of these documents of the store, which must outlive the stream. positions: S. row_tokens: S + 1
  // + MTP depths. Error: no documents.
  TokenStream(const TokenStore& store, std::vector<int64_t> documents, int64_t positions,
              int64_t row_tokens, uint64_t seed, Rewriting rewriting = {});

  // Fills row `index`, from 0: row_tokens tokens, and for each a number that changes where a
  // document ends. Any thread may call it.
  void row(int64_t index, std::span<int32_t> tokens, std::span<int32_t> documents) const;

  // A flag for each token of row `index`: whether it is to be predicted.
  void learned(int64_t index, std::span<uint8_t> learned) const;

  int64_t rows_per_epoch() const { return rows_; }
  double epochs(int64_t rows) const {
    return static_cast<double>(rows) / static_cast<double>(rows_);
  }
  int64_t tokens() const { return tokens_; }  // of all documents, once
  int64_t bytes() const { return bytes_; }
  // What an epoch's order of rows and rewritten documents takes of memory, at about its most.
  uint64_t layout_bytes() const;

 private:
  struct Epoch {
    int64_t number = -1;
    int64_t start = 0;            // where in the ring the first piece begins
    Layout layout;                // the ring
    std::vector<int64_t> begins;  // where in the ring each of its segments begins, and its end
    std::vector<int64_t> row_order;
  };
  std::shared_ptr<const Epoch> epoch(int64_t number) const;
  void lay_out(std::span<const int64_t> documents, Epoch& epoch) const;
  // Calls take(epoch, segment, the segment's first token, how many, place in the row) for each
  // piece.
  template <typename Take>
  void for_each_piece(int64_t index, Take&& take) const;

  const TokenStore& store_;
  const std::vector<int64_t> documents_;
  const int64_t positions_, row_tokens_;
  const uint64_t seed_;
  const Rewriting rewriting_;
  int64_t tokens_ = 0, bytes_ = 0, rows_ = 0;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Epoch> last_;
};

}  // namespace minke::train
