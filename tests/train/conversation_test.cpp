// Conversations: what is learned of them, from the file to the loss.
#include "train/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/transformer.h"
#include "ops/cross_entropy.h"
#include "text/bpe_trainer.h"
#include "train/data_corpus.h"
#include "train/data_stream.h"
#include "train/held_out.h"
#include "train/tokenizer.h"

namespace minke::train {
namespace {

using text::Message;

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer it = [] {
    const std::vector<std::string_view> texts = {"What is your name? My name is Anne."};
    return text::train_bpe(texts, 300, [](double) {});
  }();
  return it;
}

// Each token's text, those that are learned in brackets.
std::string shown(std::span<const int32_t> tokens, std::span<const uint8_t> learned) {
  std::string out;
  bool inside = false;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool now = learned.empty() || learned[i] != 0;
    if (now != inside) out += now ? '[' : ']';
    inside = now;
    out += tokenizer().bytes_of(tokens[i]);
  }
  return out + (inside ? "]" : "");
}

constexpr const char* kBegin = "<｜begin▁of▁sentence｜>";
constexpr const char* kUser = "<｜User｜>";
constexpr const char* kAssistant = "<｜Assistant｜>";
constexpr const char* kEnd = "<｜end▁of▁sentence｜>";

TEST(Conversation, WhatTheAssistantSaysAndItsEndAreLearned) {
  const auto got = encode_conversation(tokenizer(), {{"system", "Be brief."},
                                                     {"user", "Name?"},
                                                     {"assistant", "Anne."},
                                                     {"user", "Again?"},
                                                     {"assistant", "Anne!"}});
  EXPECT_EQ(shown(got.tokens, got.learned),
            fmt::format("{}Be brief.{}Name?{}[Anne.{}]{}Again?{}[Anne!{}]", kBegin, kUser,
                        kAssistant, kEnd, kUser, kAssistant, kEnd));
}

TEST(Conversation, OneThatTeachesNothingIsRefused) {
  EXPECT_THAT(
      [] {
        encode_conversation(tokenizer(), {{"user", "Name?"}});
      },
      error_with("assistant"));
  EXPECT_THAT(
      [] {
        encode_conversation(tokenizer(), {{"robot", "x"}, {"assistant", "y"}});
      },
      error_with("robot"));
}

TEST(Conversation, TheTemplateThatIsSavedIsTheFormatThatIsTaught) {
  const text::Tokenizer taught = with_chat_template(tokenizer());
  EXPECT_FALSE(text::chat_format(tokenizer()));
  const auto format = text::chat_format(taught);
  ASSERT_TRUE(format);
  EXPECT_EQ(format->kind, text::ChatFormat::Kind::kDeepSeekV3);
  EXPECT_TRUE(format->joins_systems);
  const std::vector<Message> messages = {
      {"system", "a"}, {"system", "b"}, {"user", "c"}, {"assistant", "d"}};
  EXPECT_EQ(encode_conversation(taught, messages).tokens,
            encode_conversation(tokenizer(), messages).tokens);
  EXPECT_EQ(taught.hash(), tokenizer().hash());
}

// From a file to rows, mixed with text, all of which is learned; and found again as it was.
TEST(Conversation, FlagsComeWithTheirTokens) {
  const TemporaryFolder folder;
  write_text(folder / "a.jsonl",
             R"({"text": "My name"}
{"messages": [{"role": "user", "content": "Name?"}, {"role": "assistant", "content": "Anne."}]}
{"text": "is Anne"}
)");
  const auto files = find_sources({(folder / "a.jsonl").string()}, folder.path());
  for (int i = 0; i < 2; ++i) {
    const TokenStore store = tokenise(Corpus(files), encoder_of(tokenizer()), folder / "tokens");
    EXPECT_EQ(store.reused(), i == 1);
    ASSERT_EQ(store.documents(), 3);
    EXPECT_TRUE(store.has_conversations());
    EXPECT_EQ(store.bytes(1), 11);
    EXPECT_EQ(shown(store.tokens(1), store.learned(1)),
              fmt::format("{}{}Name?{}[Anne.{}]", kBegin, kUser, kAssistant, kEnd));
    EXPECT_EQ(shown(store.tokens(2), store.learned(2)), fmt::format("[{}is Anne{}]", kBegin, kEnd));

    const TokenStream stream(store, {0, 1, 2}, 6, 8, 1);
    int64_t unlearned = 0;
    for (int64_t row = 0; row < stream.rows_per_epoch(); ++row) {
      std::vector<int32_t> tokens(8), documents(8);
      std::vector<uint8_t> learned(8);
      stream.row(row, tokens, documents);
      stream.learned(row, learned);
      for (size_t k = 0; k < 8; ++k) {
        if (learned[k] != 0) continue;
        ++unlearned;
        const auto all = store.tokens(1);
        EXPECT_NE(std::ranges::find(all, tokens[k]), all.end());
      }
    }
    EXPECT_GT(unlearned, 0);
  }
}

// The same from a store and from files; of conversations what is learned has bytes, and control
// tokens have none.
TEST(Conversation, HeldOutTextCountsWhatTheAssistantSays) {
  const TemporaryFolder folder;
  const std::string talk =
      R"({"messages": [{"role": "user", "content": "Name?"}, {"role": "assistant", "content": "Anne."}]})"
      "\n";
  const std::string text = R"({"text": "is Anne"})"
                           "\n";
  const auto read = [&](const std::string& lines, const std::string& expected, int64_t bytes) {
    write_text(folder / "a.jsonl", lines);
    const std::vector<SourceFile> files = {source_file(folder / "a.jsonl")};
    const Encoder encoder = encoder_of(tokenizer());
    const TokenStore store = tokenise(Corpus(files), encoder, folder / "tokens");
    for (const HeldOut& held :
         {held_out(files, "text", encoder), held_out(store, std::vector<int64_t>{0, 1}, encoder)}) {
      EXPECT_EQ(shown(held.tokens, held.learned), expected);
      EXPECT_EQ(held.bytes, bytes);
    }
  };
  const std::string one = fmt::format("{}Name?{}[Anne.{}]", kUser, kAssistant, kEnd);
  read(talk + talk, kBegin + one + kBegin + one, 10);
  read(talk + text, kBegin + fmt::format("{}Name?{}[Anne.{}is Anne]", kUser, kAssistant, kEnd), 12);
  read(text + talk, fmt::format("{}[is Anne]{}{}", kBegin, kBegin, one), 12);
  read(text + text, fmt::format("[{}is Anneis Anne]", kBegin), 14);
}

// In a million lines nobody else finds it.
TEST(Conversation, OneThatCannotBeEncodedIsNamed) {
  const TemporaryFolder folder;
  write_text(
      folder / "a.jsonl",
      R"({"messages": [{"role": "user", "content": "Name?"}, {"role": "assistant", "content": "Anne."}]}
{"messages": [{"role": "user", "content": "Name?"}]}
)");
  const std::vector<SourceFile> files = {source_file(folder / "a.jsonl")};
  const Encoder encoder = encoder_of(tokenizer());
  const std::string path = (folder / "a.jsonl").string();
  EXPECT_THAT([&] { tokenise(Corpus(files), encoder, folder / "tokens"); },
              error_with(path, "line 2", "assistant"));
  EXPECT_THAT([&] { held_out(files, "text", encoder); }, error_with(path, "line 2", "assistant"));
}

TEST(Conversation, ATargetThatIsNotToBePredictedDoesNotCount) {
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6}, documents = {0, 0, 0, 0, 1, 1};
  const std::vector<uint8_t> learned = {0, 0, 1, 1, 1, 0};
  model::Batch batch{1, 4, 6, tokens, documents, false, learned};
  constexpr int32_t kNone = ops::kIgnore;
  EXPECT_THAT(batch.targets(0), testing::ElementsAre(kNone, 3, 4, kNone));
  EXPECT_THAT(batch.targets(1), testing::ElementsAre(3, 4, kNone, kNone));
}

TEST(Conversation, LinesThatAreNoneAreNamed) {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& line) {
    write_text(folder / "a.jsonl", line);
    read_documents(source_file(folder / "a.jsonl"), "text", [](Document&&) {});
  };
  EXPECT_THAT([&] { read(R"({"messages": [{"role": "user"}]})"); },
              error_with("line 1", "content"));
  EXPECT_THAT([&] { read(R"({"messages": []})"); }, error_with("line 1", "empty"));
  EXPECT_THAT(
      [&] { read(R"({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]})"); },
      error_with("line 1", "tool_calls"));
  EXPECT_THAT([&] { read(R"({"messages": "hello"})"); }, error_with("line 1", "text"));
}

}  // namespace
}  // namespace minke::train
