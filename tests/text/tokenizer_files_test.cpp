// Learning a vocabulary; tokenizer.json there and back; files that are damaged or hostile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "text/bpe_trainer.h"
#include "text/golden_tokenizer.h"

namespace minke::text {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::vector<std::string> texts() {
  const std::string all = read_file(kGoldenTokenizer / "golden.jsonl");
  return {all.substr(0, all.size() / 2), all.substr(all.size() / 2), "an ending, an ending"};
}

Tokenizer learned(int64_t vocabulary = 700) {
  const auto strings = texts();
  return train_bpe({strings.begin(), strings.end()}, vocabulary);
}

struct Files {
  std::string json, config;
};
Files files_of(const Tokenizer& tokenizer) {
  const TemporaryFolder folder;
  tokenizer.save(folder.path());
  return {read_file(folder / "tokenizer.json"), read_file(folder / "tokenizer_config.json")};
}

TEST(BpeTrainer, TheSameBytesForAnyNumberOfThreadsAndOrderOfTexts) {
  const int threads = thread_count();
  set_thread_count(1);
  const Files alone = files_of(learned());
  set_thread_count(3);
  const Files many = files_of(learned());
  set_thread_count(threads);
  EXPECT_EQ(alone.json, many.json);
  auto strings = texts();
  std::ranges::reverse(strings);
  EXPECT_EQ(files_of(train_bpe({strings.begin(), strings.end()}, 700)).json, alone.json);
}

TEST(BpeTrainer, ReservedTokensComeFirstAndNamesAreFilled) {
  const Tokenizer tokenizer = learned();
  EXPECT_EQ(tokenizer.vocabulary(), 700);
  const std::vector<std::string> expected = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
                                             "<｜▁pad▁｜>"};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(tokenizer.added_id(expected[i]), static_cast<int32_t>(i)) << expected[i];
  }
  for (const char* name :
       {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜User｜>", "<｜Assistant｜>"}) {
    EXPECT_TRUE(tokenizer.added_id(name).has_value()) << name;
  }
  EXPECT_EQ(tokenizer.bos(), 0);
  EXPECT_EQ(tokenizer.eos(), 1);
  for (const std::string& text : texts()) EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  // The commonest pair was merged: fewer tokens than bytes.
  EXPECT_LT(tokenizer.encode(texts()[0]).size(), texts()[0].size() * 2 / 3);
}

// By hand: "ab" stands 3 times, then "abc" twice, then nothing stands twice.
TEST(BpeTrainer, MergesTheCommonestPairUntilNoneStandsTwice) {
  const Tokenizer tokenizer = train_bpe({"abc", "abc", "ab"}, 1000);
  const auto bytes = static_cast<int64_t>(reserved_tokens().size()) + 256;
  EXPECT_EQ(tokenizer.vocabulary(), bytes + 2);
  EXPECT_EQ(tokenizer.encode("abc"), (std::vector<int32_t>{static_cast<int32_t>(bytes + 1)}));
  EXPECT_EQ(tokenizer.encode("ab"), (std::vector<int32_t>{static_cast<int32_t>(bytes)}));
}

TEST(BpeTrainer, WhatCannotBeLearnedIsAnError) {
  EXPECT_THROW((void)train_bpe({"text"}, 200), Error);
  EXPECT_THROW((void)train_bpe({}, 700), Error);
  EXPECT_THROW((void)train_bpe({""}, 700), Error);
}

TEST(TokenizerFiles, ThereAndBackIsTheSame) {
  const Tokenizer tokenizer = learned();
  const Files files = files_of(tokenizer);
  const Tokenizer again = Tokenizer::parse({files.json, "", files.config, ""}, "again");
  EXPECT_EQ(again.hash(), tokenizer.hash());
  const Files second = files_of(again);
  EXPECT_EQ(second.json, files.json);
  EXPECT_EQ(second.config, files.config);
  for (const std::string& text : texts()) EXPECT_EQ(again.encode(text), tokenizer.encode(text));
}

void expect_refused(const std::function<void(json&)>& change, const char* what) {
  const Files files = files_of(learned(300));
  json root = json::parse(files.json);
  change(root);
  try {
    (void)Tokenizer::parse({root.dump(), "", files.config, ""}, "the file");
    ADD_FAILURE() << "taken, expected an error about " << what;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the file"));
    EXPECT_THAT(error.what(), HasSubstr(what));
  }
}

TEST(TokenizerFiles, WhatWouldBeComputedOtherwiseIsRefused) {
  expect_refused([](json& j) { j["normalizer"] = {{"type", "Nmt"}}; }, "normalizer");
  expect_refused([](json& j) { j["model"]["type"] = "Unigram"; }, "Unigram");
  expect_refused([](json& j) { j["model"]["dropout"] = 0.1; }, "dropout");
  expect_refused([](json& j) { j["model"]["ignore_merges"] = 1; }, "ignore_merges");
  expect_refused([](json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; },
                 "Removed");
  expect_refused([](json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; },
                 "(a");
}

TEST(TokenizerFiles, DamageIsNamed) {
  expect_refused([](json& j) { j.erase("model"); }, "model");
  expect_refused([](json& j) { j["model"]["vocab"] = 3; }, "vocab");
  expect_refused([](json& j) { j["model"]["vocab"]["zz"] = 4'000'000'000; }, "vocab");
  expect_refused([](json& j) { j["model"]["vocab"]["zz"] = -1; }, "vocab");
  expect_refused([](json& j) { j["model"]["vocab"]["zz"] = 270; }, "270");  // stands twice
  expect_refused([](json& j) { j["model"]["merges"].push_back("no such"); }, "merge");
  expect_refused([](json& j) { j["model"]["merges"].push_back(7); }, "merge");
  expect_refused([](json& j) { j["model"]["merges"].push_back(j["model"]["merges"][0]); }, "merge");
  expect_refused([](json& j) { j["added_tokens"][0]["id"] = "zero"; }, "id");
}

TEST(TokenizerFiles, DeepNestingIsRefused) {
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "[";
  EXPECT_THROW((void)Tokenizer::parse({deep, "", "", ""}, "deep"), Error);
  EXPECT_THROW((void)Tokenizer::parse({"{\"model\":" + deep, "", "", ""}, "deep"), Error);
}

// Trap 18: any damage loads or throws Error, and what loads, works.
TEST(TokenizerFiles, Trap18MutationsLoadOrThrow) {
  const Files files = files_of(learned(300));
  Rng rng(3);
  int64_t loaded = 0, refused = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string text = files.json, config = files.config;
    std::string& hit = rng.below(5) == 0 ? config : text;
    const auto edits = 1 + rng.below(3);
    for (uint64_t e = 0; e < edits && !hit.empty(); ++e) {
      const size_t at = rng.below(hit.size());
      switch (rng.below(5)) {
        case 0:
          hit[at] = static_cast<char>(rng.below(256));
          break;
        case 1:
          hit.erase(at, 1 + rng.below(20));
          break;
        case 2:
          hit.insert(at, hit.substr(rng.below(hit.size()), rng.below(40)));
          break;
        case 3:
          hit.replace(at, 1, std::to_string(rng.below(uint64_t{1} << 40)));
          break;
        default:
          if (rng.below(8) == 0) hit.resize(at);
      }
    }
    try {
      const Tokenizer tokenizer = Tokenizer::parse({text, "", config, ""}, "mutated");
      const auto ids = tokenizer.encode("the ending, 1234 <｜User｜> \xff");
      (void)tokenizer.decode(ids);
      ++loaded;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(loaded, 20);
  EXPECT_GT(refused, 200);
}

}  // namespace
}  // namespace minke::text
