#include "infer/generation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/rng.h"
#include "infer/tiny_model.h"

namespace minke::infer {
namespace {

using model::Precision;

constexpr Sampling kGreedy{0, 0, 1, 0, 0};
constexpr Sampling kWarm{1, 0, 1, 0, 3};

const auto kIgnoreToken = [](int32_t) {};
const auto kNeverStop = [] { return false; };

std::vector<int32_t> random_tokens(int64_t count, uint64_t key = 5) {
  Rng rng(key);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(rng.below(61)));
  return tokens;
}

std::vector<int32_t> generate(model::Transformer& model, std::span<const int32_t> prompt,
                              const Sampling& sampling, int64_t count, int64_t prefill_rows) {
  Generator generator(model, {.vocabulary = 0, .end_tokens = {}, .prefill_rows = prefill_rows});
  return generator.generate(prompt, sampling, count, kIgnoreToken, kNeverStop).tokens;
}

// The whole forward's logits of every position.
std::vector<float> forward_logits(model::Transformer& model, std::span<const int32_t> tokens) {
  Arena saved(size_t{1} << 28), scratch(size_t{1} << 28);
  const model::Pass pass{model.precision(), saved, scratch};
  const auto count = static_cast<int64_t>(tokens.size());
  model::Batch batch;
  batch.sequences = 1;
  batch.positions = batch.row_tokens = count;
  batch.tokens = tokens;
  model::Transformer::Saved kept;
  model.forward(batch, {.forced_experts = {}, .counting = false, .depths = 0}, kept, pass);
  std::vector<float> logits(static_cast<size_t>(count * model.config().vocab_size));
  model.logits(Tensor(logits.data(), {count, model.config().vocab_size}), kept.hidden[0], pass);
  return logits;
}

// Every position's logits by decode, `rows` rows at a time; of each time's last `asked` rows alone,
// where that is fewer, and zero of the others.
std::vector<float> decode_logits(model::Transformer& model, std::span<const int32_t> tokens,
                                 int64_t rows, int64_t asked = 64) {
  Arena saved(size_t{1} << 28), scratch(size_t{1} << 28);
  const model::Pass pass{model.precision(), saved, scratch};
  const auto& config = model.config();
  const auto count = static_cast<int64_t>(tokens.size());
  LatentCache cache(config, model.precision(), config.num_hidden_layers, count);
  std::vector<float> logits(static_cast<size_t>(count * config.vocab_size));
  for (int64_t at = 0; at < count; at += rows) {
    const int64_t now = std::min(rows, count - at);
    const int64_t states = std::min(asked, now);
    const OwnedTensor hidden(pass.activation(), {states, config.hidden_size});
    model.decode(hidden, tokens.subspan(static_cast<size_t>(at), static_cast<size_t>(now)),
                 cache.next_rows(now), pass);
    cache.advance(now);
    model.logits(Tensor(logits.data() + (at + now - states) * config.vocab_size,
                        {states, config.vocab_size}),
                 hidden, pass);
  }
  return logits;
}

// Absorbed decode against the expanded forward, in FP32. Both compute the same sums in another
// order and association. A sum of K products is off by at most K u times the sum of the products'
// magnitudes, and that sum is about sqrt(K) times the result where signs are random: so each
// product of a layer adds a relative error of K sqrt(K) u. Over a layer that is the sum over its
// products, twice because both sides err; a layer's errors enter the stream beside those before
// (each norm divides them by the stream's own growth), so they add over layers.
TEST(Decode, AbsorbedEqualsExpanded) {
  for (const int64_t q_rank : {12, 0}) {
    model::ModelConfig config = tiny_config();
    config.q_lora_rank = q_rank;
    const auto model = tiny_model(Precision::kF32, config);
    const std::vector<int32_t> tokens = random_tokens(70);
    const std::vector<float> expected = forward_logits(*model, tokens);
    const std::vector<float> got = decode_logits(*model, tokens, 1);
    double layer = 0;
    for (const int64_t k : {config.hidden_size, config.q_lora_rank, config.kv_lora_rank,
                            config.qk_nope_head_dim, config.latent_width(), int64_t{70},
                            config.kv_lora_rank, config.num_attention_heads * config.v_head_dim,
                            config.hidden_size, config.intermediate_size}) {
      layer += std::pow(static_cast<double>(k), 1.5);
    }
    const double head = std::pow(static_cast<double>(config.hidden_size), 1.5);
    const double relative =
        2 * kRoundoffF32 * (static_cast<double>(config.num_hidden_layers) * layer + head);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      difference += std::pow(double{got[i]} - double{expected[i]}, 2);
      norm += std::pow(double{expected[i]}, 2);
    }
    EXPECT_GT(norm, 0);
    EXPECT_LE(std::sqrt(difference / norm), relative);
  }
}

// What speculation and batching rest on: a row's bytes do not depend on how many are computed.
TEST(Decode, RowsDoNotDependOnTheirNumber) {
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    const auto model = tiny_model(precision);
    const std::vector<int32_t> tokens = random_tokens(41);
    const std::vector<float> one = decode_logits(*model, tokens, 1);
    for (int64_t rows = 2; rows <= 8; ++rows) {
      EXPECT_EQ(decode_logits(*model, tokens, rows), one) << rows << " rows";
    }
  }
}

// What the last layer leaves out nobody reads, neither now nor in a later pass.
TEST(Decode, StatesThatAreAskedForAreTheSame) {
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    const auto model = tiny_model(precision);
    const std::vector<int32_t> tokens = random_tokens(41);
    const std::vector<float> one = decode_logits(*model, tokens, 1);
    constexpr int64_t kRows = 8;
    for (const int64_t asked : {1, 3}) {
      const std::vector<float> got = decode_logits(*model, tokens, kRows, asked);
      const size_t width = one.size() / tokens.size();
      for (size_t i = 0; i < one.size(); ++i) {
        const auto row = static_cast<int64_t>(i / width);
        const int64_t end = std::min((row / kRows + 1) * kRows, std::ssize(tokens));
        ASSERT_EQ(got[i], end - row <= asked ? one[i] : 0) << "row " << row << " of " << asked;
      }
    }
  }
}

TEST(Generator, ChunksOfThePrefillDoNotChangeTheText) {
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    const auto model = tiny_model(precision);
    const std::vector<int32_t> prompt = random_tokens(29);
    for (const Sampling& sampling : {kGreedy, kWarm}) {
      const std::vector<int32_t> one = generate(*model, prompt, sampling, 24, 1);
      EXPECT_EQ(one.size(), 24);
      for (int64_t rows = 2; rows <= 8; ++rows) {
        EXPECT_EQ(generate(*model, prompt, sampling, 24, rows), one) << rows << " rows";
      }
    }
  }
}

// The greedy text is the argmax of the whole forward, one token at a time.
TEST(Generator, GreedyIsTheForwardsArgmax) {
  const auto model = tiny_model(Precision::kF32);
  std::vector<int32_t> text = random_tokens(9);
  const std::vector<int32_t> greedy = generate(*model, text, kGreedy, 12, 64);
  for (const int32_t token : greedy) {
    const std::vector<float> logits = forward_logits(*model, text);
    const auto last = logits.end() - 61;
    EXPECT_EQ(std::max_element(last, logits.end()) - last, token);
    text.push_back(token);
  }
}

TEST(Generator, ContinuedTextIsTheSame) {
  const auto model = tiny_model(Precision::kF32);
  std::vector<int32_t> prompt = random_tokens(9);
  const std::vector<int32_t> whole = generate(*model, prompt, kWarm, 20, 64);
  prompt.insert(prompt.end(), whole.begin(), whole.begin() + 7);
  EXPECT_EQ(generate(*model, prompt, kWarm, 13, 64),
            std::vector<int32_t>(whole.begin() + 7, whole.end()));
}

// Trap 17: what is restored is counted, and is not computed again.
TEST(Generator, Trap17TheNextTurnReusesTheCache) {
  const auto model = tiny_model(Precision::kBF16);
  Generator generator(*model, {});
  const auto run = [&](std::span<const int32_t> prompt) {
    return generator.generate(prompt, kWarm, 6, kIgnoreToken, kNeverStop);
  };
  const Generation first = run(random_tokens(10));
  EXPECT_EQ(first.reused, 0);
  EXPECT_EQ(first.prefill, 10);
  ASSERT_EQ(first.tokens.size(), 6);

  std::vector<int32_t> turn = random_tokens(10);
  turn.insert(turn.end(), first.tokens.begin(), first.tokens.end());
  turn.push_back(17);
  const Generation second = run(turn);
  EXPECT_EQ(second.reused, 15);  // the last token of an answer is never computed
  EXPECT_EQ(second.prefill, 2);
  EXPECT_EQ(second.tokens, generate(*model, turn, kWarm, 6, 64));

  // Another history: only what is common stays.
  turn[4] = turn[4] == 8 ? 9 : 8;
  const Generation third = run(turn);
  EXPECT_EQ(third.reused, 4);
  EXPECT_EQ(third.tokens, generate(*model, turn, kWarm, 6, 64));
}

TEST(Generator, Stops) {
  const auto model = tiny_model(Precision::kF32);
  const std::vector<int32_t> prompt = random_tokens(5);
  const std::vector<int32_t> free = generate(*model, prompt, kWarm, 30, 64);
  ASSERT_EQ(free.size(), 30);

  Generator ends(*model, {.vocabulary = 0, .end_tokens = {60, free[9]}});
  const Generation ended = ends.generate(prompt, kWarm, 30, kIgnoreToken, kNeverStop);
  EXPECT_EQ(ended.stop, Stop::kEnd);
  EXPECT_LT(ended.tokens.size(), 10);
  EXPECT_TRUE(std::equal(ended.tokens.begin(), ended.tokens.end(), free.begin()));

  Generator generator(*model, {});
  std::vector<int32_t> streamed;
  const Generation most = generator.generate(
      prompt, kWarm, 30, [&](int32_t token) { streamed.push_back(token); }, kNeverStop);
  EXPECT_EQ(most.stop, Stop::kMaxTokens);
  EXPECT_EQ(streamed, most.tokens);
  EXPECT_EQ(most.steps, 29);

  Generator narrow(*model, {.vocabulary = 0, .end_tokens = {}, .context = 12});
  const Generation full = narrow.generate(prompt, kWarm, 30, kIgnoreToken, kNeverStop);
  EXPECT_EQ(full.stop, Stop::kContext);
  EXPECT_EQ(full.tokens, std::vector<int32_t>(free.begin(), free.begin() + 7));

  int asked = 0;
  const Generation stopped = generator.generate(random_tokens(5, 77), kWarm, 30, kIgnoreToken,
                                                [&] { return ++asked > 3; });
  EXPECT_EQ(stopped.stop, Stop::kInterrupted);
  EXPECT_EQ(stopped.tokens.size(), 3);
}

// Errors are the request's (also of trap 16's -1): the generator goes on.
TEST(Generator, BadRequestsAreErrorsAndNothingMore) {
  const auto model = tiny_model(Precision::kF32);
  Generator generator(*model, {.vocabulary = 50, .end_tokens = {}, .context = 16});
  const auto run = [&](std::vector<int32_t> prompt, int64_t count = 2) {
    return generator.generate(prompt, kGreedy, count, kIgnoreToken, kNeverStop).tokens.size();
  };
  EXPECT_EQ(run({3, 4}), 2);
  EXPECT_THROW(run({}), Error);
  EXPECT_THROW(run({3, -1}), Error);
  EXPECT_THROW(run({3, 50}), Error);
  EXPECT_THROW(run({3, 4}, 0), Error);
  EXPECT_THROW(run(std::vector<int32_t>(16, 3)), Error);
  EXPECT_THROW(run(std::vector<int32_t>(4000, 3)), Error);
  EXPECT_EQ(run(std::vector<int32_t>(15, 3)), 1);
  EXPECT_EQ(run({3, 4}), 2);
  EXPECT_THROW(Generator(*model, {.vocabulary = 62}), Error);
  EXPECT_THROW(Generator(*model, {.vocabulary = 0, .end_tokens = {}, .context = 4096}), Error);
}

TEST(Generator, PaddingIsNeverGenerated) {
  const auto model = tiny_model(Precision::kF32);
  Generator generator(*model, {.vocabulary = 20});
  const Generation out = generator.generate(std::vector<int32_t>{3, 4}, {2, 0, 1, 0, 1}, 200,
                                            kIgnoreToken, kNeverStop);
  for (const int32_t token : out.tokens) EXPECT_LT(token, 20);
}

TEST(Generator, DivergedWeightsAreAnError) {
  const auto model = tiny_model(Precision::kF32);
  // The last norm's: a NaN before would be found by a router.
  model->for_each_weight([](model::Weight& weight) {
    if (weight.pieces()[0].name == "model.norm.weight") {
      weight.master().data<float>()[3] = std::numeric_limits<float>::quiet_NaN();
    }
  });
  Generator generator(*model, {});
  EXPECT_THROW(generator.generate(std::vector<int32_t>{3, 4}, kGreedy, 2, kIgnoreToken, kNeverStop),
               Error);
}

}  // namespace
}  // namespace minke::infer
