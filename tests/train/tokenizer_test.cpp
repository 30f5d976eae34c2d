// The tokenizer of a corpus that is larger than what is held of it.
#include "train/tokenizer.h"

#include "train/data_corpus.h"

namespace minke::train {
namespace {

class LearnTokenizerTest : public testing::Test {
 protected:
  // A line of each of `texts`.
  std::vector<SourceFile> lines_of(const std::string& name, const std::vector<std::string>& texts) {
    std::string lines;
    for (const std::string& text : texts) lines += fmt::format("{{\"text\": \"{}\"}}\n", text);
    write_text(folder_ / name, lines);
    return {source_file(folder_ / name)};
  }
  static std::string hash(const std::vector<SourceFile>& files, uint64_t most_bytes) {
    return learn_tokenizer(Corpus(files), 300, most_bytes).hash();
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(LearnTokenizerTest, LearnsFromAnEvenSampleOfWhatIsTooLarge) {
  std::vector<std::string> all, second, fourth;
  for (int i = 0; i < 40; ++i) {
    const std::string word = i % 4 == 0 ? "the sea" : i % 2 == 0 ? "a house" : "one letter";
    all.push_back(fmt::format("{:100}", fmt::format("{0} and {0}", word)));
    if (i % 2 == 0) second.push_back(all.back());
    if (i % 4 == 0) fourth.push_back(all.back());
  }
  const auto files = lines_of("all.jsonl", all);
  const std::string whole = hash(files, 4000), of_second = hash(lines_of("2.jsonl", second), 4000),
                    of_fourth = hash(lines_of("4.jsonl", fourth), 4000);
  EXPECT_NE(whole, of_second);
  EXPECT_NE(of_second, of_fourth);
  EXPECT_EQ(hash(files, 3999), of_second);
  EXPECT_EQ(hash(files, 2000), of_second);
  EXPECT_EQ(hash(files, 1999), of_fourth);
  // Files have documents like one text that is all of them.
  EXPECT_EQ(hash({files[0], files[0]}, 3999), of_fourth);
  // A document is never cut.
  EXPECT_EQ(hash(files, 1), hash(lines_of("1.jsonl", {all[0]}), 4000));
}

TEST_F(LearnTokenizerTest, WhatIsHeldOutHasNoPartInIt) {
  std::vector<std::string> all, learned;
  for (int i = 0; i < 40; ++i) all.push_back(fmt::format("{0} house {0} of letter {0}", 97 * i));
  const Corpus corpus(lines_of("all.jsonl", all), "text", 0.3, 1);
  corpus.read([&](Document&& document, bool held_out) {
    if (!held_out) learned.push_back(document.text);
  });
  ASSERT_LT(learned.size(), all.size());
  EXPECT_EQ(learn_tokenizer(corpus, 300).hash(), hash(lines_of("learned.jsonl", learned), 1 << 20));
  EXPECT_NE(learn_tokenizer(corpus, 300).hash(), hash(corpus.files(), 1 << 20));
}

}  // namespace
}  // namespace minke::train
