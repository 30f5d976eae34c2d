#include "train/data_stream.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "base/thread_pool.h"
#include "train/data_corpus.h"

namespace minke::train {
namespace {

constexpr int64_t kS = 7, kRow = kS + 2;

struct Row {
  std::vector<int32_t> tokens, documents;
  friend bool operator==(const Row&, const Row&) = default;
};

// Documents of uneven length whose tokens are all different: token = 1000 * document + place, with
// the beginning and end of the encoder.
class StreamTest : public testing::Test {
 protected:
  explicit StreamTest(const std::vector<int>& lengths = {30, 1, 64, 12, 7, 3, 25}) {
    std::string lines;
    for (const int length : lengths) {
      lines += fmt::format("{{\"text\":\"{}\"}}\n", std::string(static_cast<size_t>(length), 'x'));
    }
    write_text(folder_ / "a.jsonl", lines);
    int32_t documents = 0;
    const Encoder encoder{[&](std::string_view text) {
                            // Runs in order: one thread takes the documents of a batch.
                            std::vector<int32_t> tokens(text.size());
                            std::iota(tokens.begin(), tokens.end(), 1000 * ++documents);
                            return tokens;
                          },
                          "places",
                          kBos,
                          kEos,
                          {}};
    const int threads = thread_count();
    set_thread_count(1);
    store_ = std::make_unique<TokenStore>(
        tokenise(Corpus({source_file(folder_ / "a.jsonl")}), encoder, folder_ / "tokens"));
    set_thread_count(threads);
  }
  TokenStream stream(uint64_t seed = 1, std::vector<int64_t> documents = {}) {
    if (documents.empty()) {
      documents.resize(static_cast<size_t>(store_->documents()));
      std::iota(documents.begin(), documents.end(), 0);
    }
    return {*store_, std::move(documents), kS, kRow, seed};
  }
  static Row row(const TokenStream& stream, int64_t index) {
    Row out{std::vector<int32_t>(kRow), std::vector<int32_t>(kRow)};
    stream.row(index, out.tokens, out.documents);
    return out;
  }

  TemporaryFolder folder_;
  std::unique_ptr<TokenStore> store_;
};

TEST_F(StreamTest, Totals) {
  const TokenStream rows = stream();
  EXPECT_EQ(rows.tokens(), 30 + 1 + 64 + 12 + 7 + 3 + 25 + 7 * 2);
  EXPECT_EQ(rows.bytes(), 30 + 1 + 64 + 12 + 7 + 3 + 25);
  EXPECT_EQ(rows.rows_per_epoch(), rows.tokens() / kS);
  EXPECT_DOUBLE_EQ(rows.epochs(rows.rows_per_epoch() * 5 / 2), 2.5);
}

// In an epoch each token is in the first S places of at most one row, and fewer than S are in none.
TEST_F(StreamTest, AnEpochIsEveryTokenOnce) {
  const TokenStream rows = stream();
  for (int64_t epoch = 0; epoch < 4; ++epoch) {
    std::map<int32_t, int> seen;
    for (int64_t i = 0; i < rows.rows_per_epoch(); ++i) {
      const Row r = row(rows, epoch * rows.rows_per_epoch() + i);
      for (int64_t k = 0; k < kS; ++k) ++seen[r.tokens[static_cast<size_t>(k)]];
    }
    EXPECT_LE(seen[kBos], 7);
    EXPECT_LE(seen[kEos], 7);
    int64_t places = seen[kBos] + seen[kEos];
    for (const auto& [token, times] : seen) {
      if (token == kBos || token == kEos) continue;
      EXPECT_EQ(times, 1) << token;
      ++places;
    }
    EXPECT_EQ(places, rows.rows_per_epoch() * kS);
    EXPECT_GT(places, rows.tokens() - kS);
  }
}

// Within a document the next token follows; after its end another begins, under another number.
TEST_F(StreamTest, DocumentNumbersChangeWhereDocumentsEnd) {
  const TokenStream rows = stream();
  int64_t ends = 0;
  for (int64_t i = 0; i < 3 * rows.rows_per_epoch(); ++i) {
    const Row r = row(rows, i);
    EXPECT_EQ(r.documents.front(), 0);
    for (size_t k = 0; k + 1 < r.tokens.size(); ++k) {
      const bool end = r.tokens[k] == kEos;
      EXPECT_EQ(r.documents[k + 1], r.documents[k] + static_cast<int>(end));
      EXPECT_EQ(r.tokens[k + 1] == kBos, end);
      if (!end && r.tokens[k] != kBos && r.tokens[k + 1] != kEos) {
        EXPECT_EQ(r.tokens[k + 1], r.tokens[k] + 1);
      }
      ends += static_cast<int64_t>(end);
    }
  }
  EXPECT_GT(ends, 10);
}

// The last tokens of a row are the first of the piece that follows it.
TEST_F(StreamTest, RowsLookAhead) {
  const TokenStream rows = stream();
  std::map<int32_t, Row> by_first;
  for (int64_t i = 0; i < rows.rows_per_epoch(); ++i) {
    const Row r = row(rows, i);
    by_first[r.tokens.front()] = r;
  }
  int64_t followed = 0;
  for (const auto& [first, r] : by_first) {
    const auto next = by_first.find(r.tokens[kS]);
    if (next == by_first.end() || r.tokens[kS] == kBos || r.tokens[kS] == kEos) continue;
    EXPECT_EQ(next->second.tokens[1], r.tokens[kS + 1]);
    ++followed;
  }
  EXPECT_GT(followed, 3);
}

// Any row by its number alone: what a resumed run relies on.
TEST_F(StreamTest, AnyRowInAnyOrder) {
  const TokenStream forwards = stream(), backwards = stream();
  const int64_t n = 3 * forwards.rows_per_epoch();
  std::vector<Row> expected;
  for (int64_t i = 0; i < n; ++i) expected.push_back(row(forwards, i));
  for (int64_t i = n - 1; i >= 0; --i) {
    EXPECT_EQ(row(backwards, i), expected[static_cast<size_t>(i)]) << i;
  }
  EXPECT_EQ(row(stream(), n / 2), expected[static_cast<size_t>(n / 2)]);
}

TEST_F(StreamTest, EpochsAndSeedsDiffer) {
  const TokenStream rows = stream(1), others = stream(2);
  const int64_t n = rows.rows_per_epoch();
  std::vector<int32_t> a, b, c;
  for (int64_t i = 0; i < n; ++i) {
    a.push_back(row(rows, i).tokens.front());
    b.push_back(row(rows, n + i).tokens.front());
    c.push_back(row(others, i).tokens.front());
  }
  EXPECT_NE(a, b);
  EXPECT_NE(a, c);
  // Other places are cut, too, not the same in another order.
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  EXPECT_NE(a, b);
}

TEST_F(StreamTest, OnlyTheDocumentsItWasGiven) {
  const TokenStream rows = stream(1, {0, 2});
  for (int64_t i = 0; i < 2 * rows.rows_per_epoch(); ++i) {
    for (const int32_t token : row(rows, i).tokens) {
      EXPECT_TRUE(token == kBos || token == kEos || token / 1000 == 1 || token / 1000 == 3)
          << token;
    }
  }
}

TEST_F(StreamTest, LessTextThanARowIsRepeated) {
  const TokenStream rows = stream(1, {1});
  EXPECT_EQ(rows.tokens(), 3);
  EXPECT_EQ(rows.rows_per_epoch(), 1);
  const Row r = row(rows, 5);
  for (size_t k = 3; k < r.tokens.size(); ++k) EXPECT_EQ(r.tokens[k], r.tokens[k - 3]);
  EXPECT_GE(r.documents.back(), 2);
}

TEST_F(StreamTest, NoDocuments) {
  EXPECT_THAT([&] { TokenStream(*store_, {}, kS, kRow, 1); }, error_with("no document is left"));
}

}  // namespace
}  // namespace minke::train
