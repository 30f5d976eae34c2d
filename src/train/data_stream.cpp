#include "train/data_stream.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace minke::train {
namespace {

void shuffle(std::vector<int64_t>& order, Rng rng) {
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
}

}  // namespace

TokenStream::TokenStream(const TokenStore& store, std::vector<int64_t> documents, int64_t positions,
                         int64_t row_tokens, uint64_t seed)
    : store_(store),
      documents_(std::move(documents)),
      positions_(positions),
      row_tokens_(row_tokens),
      seed_(seed) {
  MINKE_CHECK(positions >= 1 && row_tokens > positions, "rows of {}, {} tokens", positions,
              row_tokens);
  if (documents_.empty()) fail("no document is left to train on; hold out less");
  for (const int64_t document : documents_) {
    tokens_ += static_cast<int64_t>(store.tokens(document).size());
    bytes_ += store.bytes(document);
  }
  rows_ = std::max<int64_t>(tokens_ / positions_, 1);
}

std::shared_ptr<const TokenStream::Epoch> TokenStream::epoch(int64_t number) const {
  const std::lock_guard lock(mutex_);
  if (last_ != nullptr && last_->number == number) return last_;
  auto next = std::make_shared<Epoch>();
  const auto draws = [&](std::string_view what) {
    return Rng(stream_key(seed_, static_cast<uint64_t>(number), what));
  };
  next->number = number;
  next->documents = documents_;
  shuffle(next->documents, draws("data.documents"));
  int64_t at = 0;
  for (const int64_t document : next->documents) {
    next->begins.push_back(at);
    at += static_cast<int64_t>(store_.tokens(document).size());
  }
  next->start = static_cast<int64_t>(draws("data.start").below(static_cast<uint64_t>(tokens_)));
  next->row_order.resize(static_cast<size_t>(rows_));
  std::iota(next->row_order.begin(), next->row_order.end(), 0);
  shuffle(next->row_order, draws("data.rows"));
  last_ = next;
  return next;
}

template <typename Take>
void TokenStream::for_each_piece(int64_t index, Take&& take) const {
  const std::shared_ptr<const Epoch> now = epoch(index / rows_);
  const int64_t piece = now->row_order[static_cast<size_t>(index % rows_)];
  const int64_t place = (now->start + piece * positions_) % tokens_;
  auto at = static_cast<size_t>(std::upper_bound(now->begins.begin(), now->begins.end(), place) -
                                now->begins.begin() - 1);
  auto skip = static_cast<size_t>(place - now->begins[at]);
  for (size_t filled = 0; filled < static_cast<size_t>(row_tokens_);) {
    const int64_t document = now->documents[at];
    const size_t n =
        std::min(store_.tokens(document).size() - skip, static_cast<size_t>(row_tokens_) - filled);
    take(document, skip, n, filled);
    filled += n;
    skip = 0;
    at = (at + 1) % now->documents.size();
  }
}

void TokenStream::row(int64_t index, std::span<int32_t> tokens,
                      std::span<int32_t> documents) const {
  MINKE_CHECK(index >= 0 && std::ssize(tokens) == row_tokens_ && documents.size() == tokens.size(),
              "row {} of {} and {} tokens", index, tokens.size(), documents.size());
  int32_t number = 0;
  for_each_piece(index, [&](int64_t document, size_t first, size_t n, size_t to) {
    std::ranges::copy(store_.tokens(document).subspan(first, n), tokens.subspan(to).begin());
    std::ranges::fill(documents.subspan(to, n), number++);
  });
}

void TokenStream::learned(int64_t index, std::span<uint8_t> learned) const {
  MINKE_CHECK(index >= 0 && std::ssize(learned) == row_tokens_);
  for_each_piece(index, [&](int64_t document, size_t first, size_t n, size_t to) {
    const std::span<const uint8_t> flags = store_.learned(document);
    if (flags.empty()) {
      std::ranges::fill(learned.subspan(to, n), uint8_t{1});
    } else {
      std::ranges::copy(flags.subspan(first, n), learned.subspan(to).begin());
    }
  });
}

}  // namespace minke::train
