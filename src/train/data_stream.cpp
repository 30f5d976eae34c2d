#include "train/data_stream.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/thread_pool.h"

namespace minke::train {
namespace {

void shuffle(std::vector<int64_t>& order, Rng rng) {
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
}

}  // namespace

TokenStream::TokenStream(const TokenStore& store, std::vector<int64_t> documents, int64_t positions,
                         int64_t row_tokens, uint64_t seed, Rewriting rewriting)
    : store_(store),
      documents_(std::move(documents)),
      positions_(positions),
      row_tokens_(row_tokens),
      seed_(seed),
      rewriting_(std::move(rewriting)) {
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
  last_.reset();  // there is memory for one
  auto next = std::make_shared<Epoch>();
  const auto draws = [&](std::string_view what) {
    return Rng(stream_key(seed_, static_cast<uint64_t>(number), what));
  };
  next->number = number;
  std::vector<int64_t> documents = documents_;
  shuffle(documents, draws("data.documents"));
  lay_out(documents, *next);
  next->start =
      static_cast<int64_t>(draws("data.start").below(static_cast<uint64_t>(next->begins.back())));
  next->row_order.resize(static_cast<size_t>(rows_));
  std::iota(next->row_order.begin(), next->row_order.end(), 0);
  shuffle(next->row_order, draws("data.rows"));
  last_ = next;
  return next;
}

// In parallel, a few documents at once: what a thread makes of them is appended in their order.
void TokenStream::lay_out(std::span<const int64_t> documents, Epoch& epoch) const {
  constexpr int64_t kBlock = 4096, kTogether = 16;
  struct Part {
    Layout layout;
    std::vector<int64_t> sizes;  // of its segments
  };
  const auto made_of = [&](std::span<const int64_t> some) {
    Part part;
    part.layout.seed = epoch.layout.seed;
    part.layout.epoch = epoch.layout.epoch;
    const Rewriting none;
    for (const int64_t document : some) {
      const Rewriting& how = store_.is_conversation(document) ? none : rewriting_;
      how.add(document, store_.tokens(document), part.layout);
    }
    std::vector<int32_t> buffer;
    for (const Segment& segment : part.layout.segments) {
      const auto tokens = store_.tokens(segment.document);
      part.sizes.push_back(std::ssize(rewriting_.read(segment, tokens, part.layout, buffer)));
    }
    return part;
  };
  epoch.layout.seed = seed_;
  epoch.layout.epoch = static_cast<uint64_t>(epoch.number);
  epoch.begins = {0};
  Progress progress("laying out the text", documents.size());
  for (size_t at = 0; at < documents.size(); at += kBlock) {
    const auto block = documents.subspan(at, std::min<size_t>(kBlock, documents.size() - at));
    std::vector<Part> parts((block.size() + kTogether - 1) / kTogether);
    parallel_for(std::ssize(block), kTogether, [&](int64_t begin, int64_t end) {
      parts[static_cast<size_t>(begin / kTogether)] =
          made_of(block.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    });
    for (const Part& part : parts) {
      append(epoch.layout, part.layout);
      for (const int64_t size : part.sizes) epoch.begins.push_back(epoch.begins.back() + size);
    }
    progress.add(block.size());
  }
}

uint64_t TokenStream::layout_bytes() const {
  const uint64_t segments = rewriting_.segments(std::ssize(documents_), tokens_);
  // A vector that grows may have room for twice as much.
  return 2 * segments * (sizeof(Segment) + sizeof(int64_t)) +
         sizeof(int64_t) * (documents_.size() + static_cast<uint64_t>(rows_));
}

template <typename Take>
void TokenStream::for_each_piece(int64_t index, Take&& take) const {
  const std::shared_ptr<const Epoch> now = epoch(index / rows_);
  const std::vector<int64_t>& begins = now->begins;
  const int64_t piece = now->row_order[static_cast<size_t>(index % rows_)];
  const int64_t place = (now->start + piece * positions_) % begins.back();
  auto at = static_cast<size_t>(std::ranges::upper_bound(begins, place) - begins.begin() - 1);
  auto skip = static_cast<size_t>(place - begins[at]);
  for (size_t filled = 0; filled < static_cast<size_t>(row_tokens_);) {
    const auto size = static_cast<size_t>(begins[at + 1] - begins[at]);
    const size_t n = std::min(size - skip, static_cast<size_t>(row_tokens_) - filled);
    take(*now, now->layout.segments[at], skip, n, filled);
    filled += n;
    skip = 0;
    at = (at + 1) % now->layout.segments.size();
  }
}

void TokenStream::row(int64_t index, std::span<int32_t> tokens,
                      std::span<int32_t> documents) const {
  MINKE_CHECK(index >= 0 && std::ssize(tokens) == row_tokens_ && documents.size() == tokens.size(),
              "row {} of {} and {} tokens", index, tokens.size(), documents.size());
  int32_t number = 0;
  std::vector<int32_t> buffer;
  for_each_piece(
      index, [&](const Epoch& epoch, const Segment& segment, size_t first, size_t n, size_t to) {
        const std::span<const int32_t> all =
            rewriting_.read(segment, store_.tokens(segment.document), epoch.layout, buffer);
        std::ranges::copy(all.subspan(first, n), tokens.subspan(to).begin());
        if (segment.opens && to > 0) ++number;
        std::ranges::fill(documents.subspan(to, n), number);
      });
}

void TokenStream::learned(int64_t index, std::span<uint8_t> learned) const {
  MINKE_CHECK(index >= 0 && std::ssize(learned) == row_tokens_);
  for_each_piece(index,
                 [&](const Epoch&, const Segment& segment, size_t first, size_t n, size_t to) {
                   if (store_.is_conversation(segment.document)) {
                     std::ranges::copy(store_.learned(segment.document).subspan(first, n),
                                       learned.subspan(to).begin());
                   } else {
                     std::ranges::fill(learned.subspan(to, n), uint8_t{1});
                   }
                 });
}

}  // namespace minke::train
