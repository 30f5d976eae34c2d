// Fill in the middle and split tokens: nothing of a text is lost, and every draw is one.
#include "train/rewriting.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/thread_pool.h"
#include "text/bpe_trainer.h"
#include "train/data_corpus.h"
#include "train/data_stream.h"
#include "train/tokenizer.h"

namespace minke::train {
namespace {

// Lines that end in punctuation, and characters of one to four bytes.
std::string sample_text(int lines) {
  std::string out;
  for (int i = 0; i < lines; ++i) {
    out += i % 3 == 0   ? "Anne walked to Lyme.\n"
           : i % 3 == 1 ? "“Née 我们 🐋!”\n\n"
                        : "(and back),\n";
  }
  return out;
}

const text::Tokenizer& prose_tokenizer() {
  static const text::Tokenizer it = [] {
    const std::string text = sample_text(60);
    return text::train_bpe({text}, 330);
  }();
  return it;
}

int32_t id_of(const char* name) { return *prose_tokenizer().added_id(name); }
const int32_t kFimBegin = 3, kFimHole = 4, kFimEnd = 5;  // see text::reserved_tokens()

std::vector<int32_t> document_of(const std::string& text) {
  std::vector<int32_t> tokens = prose_tokenizer().encode(text);
  tokens.insert(tokens.begin(), *prose_tokenizer().bos());
  tokens.push_back(*prose_tokenizer().eos());
  return tokens;
}

struct Rewritten {
  Layout layout;
  std::vector<int32_t> tokens;
};

Rewritten rewrite(const Rewriting& how, const std::vector<int32_t>& document, uint64_t epoch,
                  int64_t number = 0) {
  Rewritten out;
  out.layout.seed = 7;
  out.layout.epoch = epoch;
  how.add(number, document, out.layout);
  std::vector<int32_t> buffer;
  for (const Segment& segment : out.layout.segments) {
    EXPECT_EQ(segment.opens, &segment == out.layout.segments.data());
    EXPECT_EQ(segment.document, number);
    const auto part = how.read(segment, document, out.layout, buffer);
    out.tokens.insert(out.tokens.end(), part.begin(), part.end());
  }
  return out;
}

// The three texts of BOS <begin> prefix <hole> suffix <end> middle EOS.
std::array<std::string, 3> parts_of(const std::vector<int32_t>& tokens) {
  std::array<std::string, 3> out;
  const auto hole = std::ranges::find(tokens, kFimHole), end = std::ranges::find(tokens, kFimEnd);
  EXPECT_EQ(tokens[0], *prose_tokenizer().bos());
  EXPECT_EQ(tokens[1], kFimBegin);
  EXPECT_EQ(tokens.back(), *prose_tokenizer().eos());
  EXPECT_EQ(std::ranges::count_if(tokens, [](int32_t t) { return t >= kFimBegin && t <= kFimEnd; }),
            3);
  if (hole >= end) return out;
  out[0] = prose_tokenizer().decode({tokens.begin() + 2, hole});
  out[1] = prose_tokenizer().decode({hole + 1, end});
  out[2] = prose_tokenizer().decode({end + 1, tokens.end() - 1});
  return out;
}

TEST(Rewriting, FimNamesTheTokenizersOwnTokens) {
  EXPECT_EQ(id_of("<｜fim▁begin｜>"), kFimBegin);
  EXPECT_EQ(id_of("<｜fim▁hole｜>"), kFimHole);
  EXPECT_EQ(id_of("<｜fim▁end｜>"), kFimEnd);
}

// Whatever the cuts, prefix + middle + suffix is the text; cuts go through tokens, never through a
// character.
TEST(Rewriting, FimIsThePrefixTheSuffixAndWhatWasBetween) {
  const std::string text = sample_text(9);
  const auto document = document_of(text);
  std::set<size_t> first_cuts;
  int through_tokens = 0;
  for (const double split : {0.0, 0.5}) {
    const Rewriting how(1, split, prose_tokenizer());
    for (uint64_t epoch = 0; epoch < 300; ++epoch) {
      const Rewritten got = rewrite(how, document, epoch);
      const auto [prefix, suffix, middle] = parts_of(got.tokens);
      ASSERT_EQ(fmt::format("{}{}{}", prefix, middle, suffix), text);
      for (const std::string& part : {prefix, suffix, middle}) {
        ASSERT_EQ(find_invalid_utf8(part), std::string::npos);
      }
      first_cuts.insert(prefix.size());
      // BOS <begin>, <hole>, <end>, EOS are inserted; more is a token that was cut.
      through_tokens += static_cast<int>(got.layout.inserted.size() > 5);
    }
  }
  EXPECT_GT(first_cuts.size(), text.size() / 3);
  EXPECT_GT(through_tokens, 100);
}

TEST(Rewriting, FimOfTheShortestTexts) {
  const Rewriting how(1, 0, prose_tokenizer());
  for (const char* text : {"x", "我", "🐋", "ab"}) {
    std::set<std::string> cuts;
    for (uint64_t epoch = 0; epoch < 400; ++epoch) {
      const auto [prefix, suffix, middle] = parts_of(rewrite(how, document_of(text), epoch).tokens);
      ASSERT_EQ(fmt::format("{}{}{}", prefix, middle, suffix), text);
      cuts.insert(fmt::format("{}|{}|{}", prefix, middle, suffix));
    }
    EXPECT_EQ(cuts.size(), std::string_view(text) == "ab" ? 6 : 3);
  }
}

// By document and epoch: a binomial count within five standard deviations, other documents in each
// epoch, the same whenever they are asked for.
TEST(Rewriting, FimTakesItsShareOfTheDocuments) {
  constexpr double kRate = 0.1;
  constexpr int kDocuments = 2000;
  const Rewriting how(kRate, 0, prose_tokenizer());
  const auto document = document_of("Anne walked.");
  const auto chosen = [&](uint64_t epoch) {
    std::set<int> out;
    for (int i = 0; i < kDocuments; ++i) {
      if (rewrite(how, document, epoch, i).tokens != document) out.insert(i);
    }
    return out;
  };
  const auto first = chosen(0), second = chosen(1);
  for (const auto& set : {first, second}) {
    EXPECT_NEAR(static_cast<double>(set.size()), kRate * kDocuments,
                5 * std::sqrt(kDocuments * kRate * (1 - kRate)));
  }
  EXPECT_NE(first, second);
  EXPECT_EQ(first, chosen(0));
}

bool is_joined(int32_t token) {
  const std::string_view bytes = prose_tokenizer().bytes_of(token);
  return bytes.size() > 1 && bytes.back() == '\n' && bytes.front() != '\n' && bytes.front() != ' ';
}

// Longer than what is split at once.
TEST(Rewriting, SplitTokensDecodeToTheSameText) {
  const std::string text = sample_text(3000);
  const auto document = document_of(text);
  ASSERT_GT(document.size(), 3 * 4096);
  const auto joined = std::ranges::count_if(document, is_joined);
  ASSERT_GT(joined, 1900);
  for (const double rate : {1e-9, 0.25, 1.0}) {
    const Rewriting how(0, rate, prose_tokenizer());
    for (uint64_t epoch = 0; epoch < 2; ++epoch) {
      const auto got = rewrite(how, document, epoch);
      EXPECT_GT(got.layout.segments.size(), 3);
      EXPECT_EQ(prose_tokenizer().decode(got.tokens), prose_tokenizer().decode(document));
      const auto n = static_cast<double>(joined);
      EXPECT_NEAR(static_cast<double>(std::ranges::count_if(got.tokens, is_joined)), n * (1 - rate),
                  5 * std::sqrt(n * rate * (1 - rate)));
      EXPECT_EQ(got.tokens, rewrite(how, document, epoch).tokens);
      if (rate == 0.25) {
        EXPECT_NE(got.tokens, rewrite(how, document, epoch + 1).tokens);
      }
    }
  }
}

TEST(Rewriting, SplitIsOneOfEach) {
  const auto got =
      rewrite(Rewriting(0, 1, prose_tokenizer()), document_of("Lyme.\n(and back),\n"), 0);
  std::vector<std::string> shown;
  for (const int32_t token : got.tokens) shown.emplace_back(prose_tokenizer().bytes_of(token));
  EXPECT_THAT(shown, testing::IsSupersetOf({".", "),"}));
  EXPECT_EQ(std::ranges::count(shown, "\n"), 2);
}

// Rows of a corpus with both, a conversation among its documents: any row in any order and for any
// number of threads, document numbers that change at each end, and the whole text of each document,
// in an epoch whose ring is read without a gap.
TEST(Rewriting, RowsOfAStream) {
  const TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 44; ++i) {
    lines += nlohmann::json{{"text", sample_text(1 + i % 11)}}.dump() + "\n";
  }
  lines +=
      R"({"messages": [{"role": "user", "content": "Who?\n"}, {"role": "assistant", "content": "Anne.\n"}]})"
      "\n";
  write_text(folder / "a.jsonl", lines);
  const TokenStore store = tokenise(Corpus({source_file(folder / "a.jsonl")}),
                                    encoder_of(prose_tokenizer()), folder / "tokens");
  std::vector<int64_t> documents(static_cast<size_t>(store.documents()));
  std::iota(documents.begin(), documents.end(), 0);
  const int64_t conversation = store.documents() - 1;
  ASSERT_TRUE(store.is_conversation(conversation));
  constexpr int64_t kS = 5, kRow = 7;
  const auto stream = [&](double fim, double split) {
    return TokenStream(store, documents, kS, kRow, 1, Rewriting(fim, split, prose_tokenizer()));
  };
  const auto row = [&](const TokenStream& from, int64_t index) {
    std::pair<std::vector<int32_t>, std::vector<int32_t>> out{std::vector<int32_t>(kRow),
                                                              std::vector<int32_t>(kRow)};
    from.row(index, out.first, out.second);
    return out;
  };
  const TokenStream forwards = stream(0.5, 0.5), backwards = stream(0.5, 0.5), plain = stream(0, 0);
  const int64_t n = 2 * forwards.rows_per_epoch();
  EXPECT_EQ(plain.rows_per_epoch(), forwards.rows_per_epoch());
  std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>> rows;
  int64_t fim = 0, differs = 0;
  for (int64_t i = 0; i < n; ++i) {
    rows.push_back(row(forwards, i));
    const auto& [tokens, numbers] = rows.back();
    EXPECT_EQ(numbers.front(), 0);
    for (size_t k = 1; k < tokens.size(); ++k) {
      const bool begins = tokens[k] == *prose_tokenizer().bos();
      EXPECT_EQ(numbers[k], numbers[k - 1] + static_cast<int>(begins));
      EXPECT_EQ(begins, tokens[k - 1] == *prose_tokenizer().eos());
    }
    fim += std::ranges::count(tokens, kFimHole);
    differs += static_cast<int64_t>(tokens != row(plain, i).first);
    EXPECT_EQ(std::ranges::count(row(plain, i).first, kFimHole), 0);
    std::vector<uint8_t> learned(kRow);
    forwards.learned(i, learned);
    for (size_t k = 0; k < tokens.size(); ++k) {
      if (learned[k] != 0) continue;
      const auto all = store.tokens(conversation);
      EXPECT_NE(std::ranges::find(all, tokens[k]), all.end());
    }
  }
  const int threads = thread_count();
  for (int64_t i = n - 1; i >= 0; --i) {
    set_thread_count(i % 2 == 0 ? 1 : 3);
    EXPECT_EQ(row(backwards, i), rows[static_cast<size_t>(i)]) << i;
  }
  set_thread_count(threads);
  EXPECT_GT(fim, 5);
  EXPECT_GT(differs, n / 2);
}

TEST(Rewriting, ATokenizerThatLacksWhatIsAskedForIsNamed) {
  text::TokenizerParts parts = prose_tokenizer().parts();
  std::erase_if(parts.added, [](const auto& t) { return t.content == "<｜fim▁hole｜>"; });
  const text::Tokenizer without_hole(parts);
  EXPECT_THAT([&] { Rewriting(0.1, 0, without_hole); }, error_with("--fim", "<｜fim▁hole｜>"));
  EXPECT_NO_THROW(Rewriting(0, 0.1, without_hole));
  const std::string words = "only words and only words";
  const text::Tokenizer no_joined = text::train_bpe({words}, 270);
  EXPECT_THAT([&] { Rewriting(0, 0.1, no_joined); }, error_with("--split-punctuation", "no token"));
  parts = prose_tokenizer().parts();
  parts.normalizers.push_back(text::Normalizer{});
  const text::Tokenizer normalising(parts);
  EXPECT_THAT([&] { Rewriting(0.1, 0, normalising); }, error_with("normalizers"));
}

}  // namespace
}  // namespace minke::train
