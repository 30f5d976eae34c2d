// Every kind of tokenizer that is read, against what the library that defines it made of the same
// strings (tools/peers/tokenizers_golden.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "mutate.h"
#include "text/golden_tokenizer.h"
#include "text/utf8.h"

namespace minke::text {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;
using testing::HasSubstr;

fs::path folder_of(const std::string& kind) {
  return fs::path(MINKE_GOLDEN_DIR) / "tokenizers" / kind;
}

std::vector<json> lines_of(const fs::path& path) {
  std::vector<json> out;
  std::istringstream lines(read_file(path));
  for (std::string line; std::getline(lines, line);) out.push_back(json::parse(line));
  return out;
}

class Kinds : public testing::TestWithParam<const char*> {
 protected:
  const Tokenizer tokenizer_ = Tokenizer::load(folder_of(GetParam()));
};

TEST_P(Kinds, GoldenStringsAreTheGoldenTokens) {
  const auto texts = lines_of(kGoldenTokenizer / "golden.jsonl");
  const auto expected = lines_of(folder_of(GetParam()) / "golden.jsonl");
  ASSERT_EQ(texts.size(), expected.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i]["text"].get<std::string>();
    const auto ids = expected[i]["ids"].get<Ids>();
    EXPECT_EQ(tokenizer_.encode_control(text), ids) << text;
    EXPECT_EQ(tokenizer_.decode(ids), expected[i].value("decoded", text)) << text;
  }
}

// Trap 19.
TEST_P(Kinds, ControlTokensAreNeverParsedOutOfText) {
  for (const AddedToken& token : tokenizer_.parts().added) {
    const std::string text = "a" + token.content + "b";
    const Ids ids = tokenizer_.encode(text);
    EXPECT_THAT(ids, testing::Not(testing::Contains(token.id))) << token.content;
    EXPECT_THAT(tokenizer_.encode_control(text), testing::Contains(token.id)) << token.content;
    EXPECT_EQ(tokenizer_.decode(ids), text);
  }
}

TEST_P(Kinds, BytesThatAreNoTextSurvive) {
  std::string every_byte = "a";
  for (int b = 0; b < 256; ++b) every_byte += static_cast<char>(b);
  EXPECT_EQ(tokenizer_.decode(tokenizer_.encode(every_byte)), every_byte);
  for (const char* unit : {"a", "  ", "\n", "7", "深", "ไ", "'s"}) {
    std::string text;
    while (text.size() < 100'000) text += unit;
    const std::string back = tokenizer_.decode(tokenizer_.encode(text));
    EXPECT_EQ(back.size(), text.size()) << unit;
  }
}

// What was loaded is written as it was.
TEST_P(Kinds, FilesSurviveByteForByte) {
  const TemporaryFolder out;
  tokenizer_.save(out.path());
  for (const std::string& name : tokenizer_file_names()) {
    const fs::path was = folder_of(GetParam()) / name;
    ASSERT_EQ(fs::exists(was), fs::exists(out / name)) << name;
    if (!fs::exists(was)) continue;
    EXPECT_EQ(read_file(out / name), read_file(was)) << name;
  }
  EXPECT_EQ(Tokenizer::load(out.path()).hash(), tokenizer_.hash());
}

INSTANTIATE_TEST_SUITE_P(All, Kinds, testing::Values("digits", "whole", "gpt2", "fallback", "kimi"),
                         [](const auto& kind) { return std::string(kind.param); });

TEST(Kimi, SpecialTokensFollowTheRanksAndUnnamedOnesAreHoles) {
  const Tokenizer tokenizer = Tokenizer::load(folder_of("kimi"));
  const auto base = static_cast<int32_t>(tokenizer.parts().tokens.size());
  EXPECT_EQ(tokenizer.bos(), base);
  EXPECT_EQ(tokenizer.eos(), base + 1);
  EXPECT_EQ(tokenizer.added_id("<|im_middle|>"), base + 17);
  EXPECT_EQ(tokenizer.vocabulary(), base + 18);
  EXPECT_FALSE(tokenizer.add_bos());
  EXPECT_EQ(tokenizer.holes().size(), 18U - 7U);
  EXPECT_THAT(tokenizer.holes(), testing::Each(testing::Gt(base)));
  EXPECT_THROW((void)tokenizer.decode(Ids{tokenizer.holes()[0]}), Error);
}

TEST(Templates, BeginOfSentenceComesFromThePostProcessorOrTheConfig) {
  EXPECT_TRUE(Tokenizer::load(folder_of("digits")).add_bos());
  EXPECT_EQ(Tokenizer::load(folder_of("digits")).bos(), 640);
  EXPECT_TRUE(Tokenizer::load(folder_of("fallback")).add_bos());
  EXPECT_FALSE(Tokenizer::load(folder_of("whole")).add_bos());
}

TEST(ChatTemplate, StandsInTheConfigOrAListOrAFileOfItsOwn) {
  const std::string json_text = read_file(folder_of("gpt2") / "tokenizer.json");
  const auto found = [&](const json& config, const std::string& file) {
    return Tokenizer::parse({json_text, "", config.dump(), file}, "here").chat_template();
  };
  EXPECT_EQ(found({{"chat_template", "one"}}, ""), "one");
  EXPECT_EQ(found({{"chat_template", "one"}}, "other"), "other");
  EXPECT_EQ(found({{"chat_template",
                    {{{"name", "tool_use"}, {"template", "tools"}},
                     {{"name", "default"}, {"template", "talk"}}}}},
                  ""),
            "talk");
  EXPECT_EQ(found(json::object(), ""), "");
}

void expect_refused(const TokenizerFiles& files, const char* what) {
  try {
    (void)Tokenizer::parse(files, "the folder");
    ADD_FAILURE() << "taken, expected an error about " << what;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the folder"));
    EXPECT_THAT(error.what(), HasSubstr(what));
  }
}

void expect_json_refused(const char* kind, const std::function<void(json&)>& change,
                         const char* what) {
  json root = json::parse(read_file(folder_of(kind) / "tokenizer.json"));
  change(root);
  expect_refused({root.dump(), "", "", ""}, what);
}

TEST(TokenizerKinds, WhatWouldBeComputedOtherwiseIsRefused) {
  const auto pattern = [](const char* regex) {
    return [regex](json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex; };
  };
  expect_json_refused("digits", pattern("[a-z[A-Z]]"), "a set within a class");
  expect_json_refused("digits", pattern("[a-z&&b]"), "intersection");
  expect_json_refused("digits", pattern("\\p{Letter}+"), "Letter");
  expect_json_refused(
      "digits",
      [](json& j) {
        j["pre_tokenizer"] = {{"type", "Metaspace"}};
      },
      "Metaspace");
  expect_json_refused(
      "digits",
      [](json& j) {
        j["normalizer"] = {{"type", "Lowercase"}};
      },
      "Lowercase");
  expect_json_refused(
      "digits", [](json& j) { j["post_processor"]["single"] = json::array(); },
      "TemplateProcessing");
  expect_json_refused(
      "fallback", [](json& j) { j["model"]["byte_fallback"] = false; }, "byte_fallback");
  expect_json_refused(
      "fallback", [](json& j) { j["model"]["vocab"].erase("<0x41>"); }, "0x41");
  expect_json_refused(
      "fallback",
      [](json& j) {
        j["decoder"] = {{"type", "WordPiece"}};
      },
      "WordPiece");
  expect_json_refused(
      "fallback", [](json& j) { j["added_tokens"][0]["normalized"] = true; }, "normalized");
  expect_json_refused(
      "gpt2", [](json& j) { j["added_tokens"][0]["lstrip"] = true; }, "lstrip");
}

TEST(Kimi, DamageIsNamedWithItsLine) {
  const std::string model = read_file(folder_of("kimi") / "tiktoken.model");
  const auto with = [&](const std::string& line) {
    return TokenizerFiles{"", model + line, "", ""};
  };
  const auto next = std::to_string(std::ranges::count(model, '\n'));
  const std::string number = "line " + std::to_string(std::ranges::count(model, '\n') + 1);
  expect_refused(with("YWJj"), number.c_str());
  expect_refused(with("YWJj 7\n"), number.c_str());
  expect_refused(with("YWJj " + next + "x\n"), number.c_str());
  expect_refused(with("YW*j " + next + "\n"), "base64");
  expect_refused(with(" " + next + "\n"), "base64");
  expect_refused(with("YQ== " + next + "\n"), "the same bytes");
  expect_refused({"", model.substr(model.find('\n') + 1), "", ""}, "line 1");
  expect_refused({"", model, R"({"added_tokens_decoder": {"x": {"content": "[BOS]"}}})", ""}, "x");
  expect_refused({"", model, R"({"added_tokens_decoder": {"9": 3}})", ""}, "content");
  // Trap 19: text that is token 9 would become the control token.
  expect_refused({"", model, R"({"added_tokens_decoder": {"9": {"content": "<|x|>"}}})", ""},
                 "another token's");
}

// Trap 18: any damage loads or throws Error, and what loads, works.
TEST_P(Kinds, Trap18MutationsLoadOrThrow) {
  const auto read = [&](const char* name) {
    const fs::path path = folder_of(GetParam()) / name;
    return fs::exists(path) ? read_file(path) : std::string();
  };
  const TokenizerFiles files = {read("tokenizer.json"), read("tiktoken.model"),
                                read("tokenizer_config.json"), ""};
  Rng rng(5);
  int64_t loaded = 0, refused = 0;
  for (int i = 0; i < 400; ++i) {
    TokenizerFiles hit = files;
    std::string& main = hit.json.empty() ? hit.tiktoken : hit.json;
    std::string& text = rng.below(4) == 0 ? hit.config : main;
    text = mutated(text, rng);
    if (main.empty()) continue;
    try {
      const Tokenizer tokenizer = Tokenizer::parse(hit, "mutated");
      (void)tokenizer.decode(tokenizer.encode("the ending, 1234 <｜User｜> \xff"));
      ++loaded;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(loaded, 10);
  EXPECT_GT(refused, 20);
}

TEST(Normalizers, FormsComposeAndBytesStay) {
  using Kind = Normalizer::Kind;
  EXPECT_EQ(normalize({{Kind::kNfc, "", ""}}, "e\u0301\xff\u0301"), "\u00e9\xff\u0301");
  EXPECT_EQ(normalize({{Kind::kNfd, "", ""}}, "\u00e9"), "e\u0301");
  EXPECT_EQ(normalize({{Kind::kNfkc, "", ""}}, "ﬁ²"), "fi2");
  EXPECT_EQ(normalize({{Kind::kPrepend, "", "_"}, {Kind::kReplace, "aa", "b"}}, "aaa"), "_ba");
  EXPECT_EQ(normalize({{Kind::kPrepend, "", "_"}}, ""), "");
}

TEST(Utf8, OnlyWellFormedCharactersHaveASize) {
  const std::vector<std::pair<const char*, size_t>> cases = {{"", 0},
                                                             {"a", 1},
                                                             {"é", 2},
                                                             {"深", 3},
                                                             {"🐋", 4},
                                                             {"\xff", 0},
                                                             {"\x80", 0},
                                                             {"\xc0\x80", 0},
                                                             {"\xc3", 0},
                                                             {"\xe0\x80\x80", 0},
                                                             {"\xed\xa0\x80", 0},
                                                             {"\xf4\x90\x80\x80", 0},
                                                             {"\xf0\x80\x80\x80", 0},
                                                             {"\xe6\xb7", 0}};
  for (const auto& [text, size] : cases) EXPECT_EQ(character_size(text), size) << text;
}

}  // namespace
}  // namespace minke::text
