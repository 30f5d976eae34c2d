// Needles lie where they are said to, and a model that learned to copy finds them.
#include "study/needle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/rng.h"
#include "train/tiny.h"

namespace minke::study {
namespace {

std::vector<int32_t> text_of(int64_t size) {
  std::vector<int32_t> out(static_cast<size_t>(size));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

// Each token of the text is one, so that whatever is not needle is known by its order.
TEST(Needle, LiesAtItsDepthAndAgainAtTheEnd) {
  const std::vector<int32_t> tokens = text_of(2001);
  const auto needle_of = [](const std::vector<int32_t>& text) {
    return std::vector<int32_t>(text.end() - kNeedleTokens, text.end());
  };
  for (int64_t trial = 0; trial < 40; ++trial) {
    const auto longest = needle_text(tokens, 1000, {}, 5, trial);
    for (const int64_t length : {kShortestNeedleText, int64_t{101}, int64_t{1000}}) {
      const auto absent = needle_text(tokens, length, {}, 5, trial);
      ASSERT_EQ(std::ssize(absent), length);
      EXPECT_EQ(absent.front(), 0);
      EXPECT_TRUE(std::equal(absent.begin() + 1, absent.end(), longest.end() - length + 1));
      const std::vector<int32_t> needle = needle_of(absent);
      // Never read: none of its tokens is anywhere else.
      EXPECT_EQ(std::find_first_of(absent.begin(), absent.end() - kNeedleTokens, needle.begin(),
                                   needle.end()),
                absent.end() - kNeedleTokens);
      for (const double depth : kNeedleDepths) {
        const auto told = needle_text(tokens, length, depth, 5, trial);
        ASSERT_EQ(std::ssize(told), length);
        EXPECT_EQ(needle_of(told), needle);
        const auto found = std::ranges::search(told, needle);
        ASSERT_EQ(std::ssize(found), kNeedleTokens);
        const int64_t around = length - 1 - 2 * kNeedleTokens;
        EXPECT_EQ(found.begin() - told.begin(),
                  1 + static_cast<int64_t>(depth * static_cast<double>(around)));
        std::vector<int32_t> rest(told.begin() + 1, found.begin());
        rest.insert(rest.end(), found.end(), told.end() - kNeedleTokens);
        EXPECT_TRUE(std::equal(rest.begin(), rest.end(), absent.end() - kNeedleTokens - around));
      }
      EXPECT_EQ(absent, needle_text(tokens, length, {}, 5, trial));
      EXPECT_NE(absent, needle_text(tokens, length, {}, 6, trial));
      EXPECT_NE(absent, needle_text(tokens, length, {}, 5, trial + 1));
    }
  }
}

// A string of 4 to 15 tokens, again and again.
void repeating_rows(int64_t index, std::span<int32_t> tokens, std::span<int32_t> documents) {
  Rng rng(stream_key(3, static_cast<uint64_t>(index), "rows"));
  std::ranges::fill(documents, 0);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng.below(37));
  const auto period = static_cast<size_t>(4 + rng.below(12));
  for (size_t i = period; i < tokens.size(); ++i) tokens[i] = tokens[i - period];
}

model::ModelConfig copying_config() {
  model::ModelConfig c = train::tiny_config();
  c.num_nextn_predict_layers = 0;
  c.first_k_dense_replace = 2;
  c.hidden_size = 64;
  c.num_attention_heads = 4;
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 16;
  c.kv_lora_rank = 48;
  c.q_lora_rank = 0;
  c.initializer_range = 0.1;
  return c;
}

// What it learned is to look back as far as a row repeats: 15 tokens. So it finds a needle that was
// told just before the end, and no other. A guess is right in one of 37 places.
TEST(NeedleSlow, AModelThatLearnedToCopyFindsItAsFarAsItLooksBack) {
  train::Options options = train::tiny_options();
  options.seq = 48;
  options.batch = 16;
  options.steps = 1500;
  options.lr = 4e-3;
  options.warmup = 20;
  options.precision = model::Precision::kBF16;
  options.weight_decay = 0;
  model::Transformer model(copying_config(), model::Precision::kBF16);
  model.initialize(7);
  train::Trainer trainer(model, options, repeating_rows);
  while (trainer.done() < options.steps) trainer.step();

  Rng rng(9);
  std::vector<int32_t> text(2000);
  for (int32_t& token : text) token = static_cast<int32_t>(rng.below(37));
  const NeedleRow row = find_needles(model, text, kShortestNeedleText, 32, 1, trainer.pass());
  EXPECT_EQ(row.length, kShortestNeedleText);
  EXPECT_LT(row.absent.found, 0.1);
  EXPECT_LT(row.at_depth.front().found, 0.1);
  EXPECT_GT(row.at_depth.back().found, 0.25);
  EXPECT_GT(row.at_depth.back().log_probability, row.absent.log_probability + 1);
  EXPECT_LT(row.absent.log_probability, -3);
}

}  // namespace
}  // namespace minke::study
