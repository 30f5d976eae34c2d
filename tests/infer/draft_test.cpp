// Speculative decoding: what is drafted never changes a text, whatever becomes of the drafts.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/rng.h"
#include "infer/generation.h"
#include "infer/tiny_model.h"

namespace minke::infer {
namespace {

using model::Precision;

constexpr Sampling kLikeliest{0, 0, 1, 0, 0};
constexpr Sampling kDrawn{0.9, 0, 0.95, 0, 3};

model::ModelConfig config_with_mtp() {
  model::ModelConfig config = tiny_config();
  config.num_nextn_predict_layers = 1;
  return config;
}

void for_piece(model::Transformer& model, std::string_view name,
               const std::function<void(std::span<float>, const Shape&)>& edit) {
  model.for_each_weight([&](model::Weight& weight) {
    for (model::Piece& piece : weight.pieces()) {
      if (piece.name.ends_with(name)) edit(piece.value.span<float>(), piece.shape);
    }
  });
}

// A model whose next token hangs on the last one alone, as far as its MTP module knows: no block
// adds anything. `noise` blurs what the module sees, so that drafts stand now and then; `ghost`
// lets the blocks add a little, which the module does not know of.
std::unique_ptr<model::Transformer> chain_model(Precision precision, float noise, float ghost) {
  auto out = std::make_unique<model::Transformer>(config_with_mtp(), precision);
  out->initialize(11);
  for (const char* name : {"o_proj.weight", "down_proj.weight"}) {
    for_piece(*out, name, [&](std::span<float> x, const Shape&) {
      for (float& v : x) v *= ghost;
    });
  }
  for_piece(*out, "eh_proj.weight", [&](std::span<float> x, const Shape& shape) {
    for (float& v : x) v *= noise;
    for (int64_t i = 0; i < shape[0]; ++i) x[static_cast<size_t>(i * shape[1] + i)] += 1;
  });
  out->prepare(false);
  out->prepare_decode();
  return out;
}

std::vector<int32_t> some_tokens(int64_t count, uint64_t key = 5) {
  Rng rng(key);
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<int32_t>(rng.below(61)));
  return out;
}

Generation write(Generator& generator, std::span<const int32_t> prompt, const Sampling& sampling,
                 int64_t count) {
  return generator.generate(
      prompt, sampling, count, [](int32_t) {}, [] { return false; });
}

Generation write(model::Transformer& model, std::span<const int32_t> prompt,
                 const Sampling& sampling, int64_t count, int64_t draft) {
  Generator generator(model, {.prefill_rows = 7, .draft = draft});
  return write(generator, prompt, sampling, count);
}

std::vector<int64_t> all_widths() {
  std::vector<int64_t> out = {Generator::kAutoDraft};
  for (int64_t width = 1; width <= DraftWidth::kMost; ++width) out.push_back(width);
  return out;
}

TEST(Drafts, Trap14DoNotChangeAText) {
  const std::vector<int32_t> prompt = some_tokens(17);
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    // Drafts that always stand, that sometimes do, and that hardly ever do.
    for (const auto& [noise, ghost] : {std::pair{0.0F, 0.0F}, {0.5F, 0.1F}, {1.0F, 1.0F}}) {
      const auto model = chain_model(precision, noise, ghost);
      for (const Sampling& sampling : {kLikeliest, kDrawn}) {
        const Generation plain = write(*model, prompt, sampling, 50, 0);
        ASSERT_EQ(plain.tokens.size(), 50);
        EXPECT_TRUE(plain.drafts.empty());
        for (const int64_t width : all_widths()) {
          const Generation drafted = write(*model, prompt, sampling, 50, width);
          EXPECT_EQ(drafted.tokens, plain.tokens) << "width " << width << " noise " << noise;
          EXPECT_EQ(drafted.stop, plain.stop);
          EXPECT_EQ(drafted.decoded, 49);
          EXPECT_EQ(drafted.prefill, 17);
        }
      }
    }
  }
}

TEST(Drafts, ThatAlwaysStandAreTakenWhole) {
  const auto model = chain_model(Precision::kF32, 0, 0);
  for (int64_t width = 1; width <= DraftWidth::kMost; ++width) {
    const int64_t steps = 6, count = 1 + steps * (width + 1);
    const Generation out = write(*model, some_tokens(9), kLikeliest, count, width);
    EXPECT_EQ(out.steps, steps) << "width " << width;
    ASSERT_EQ(out.drafts.size(), width);
    for (const Generation::Drafts& d : out.drafts) {
      EXPECT_EQ(d.made, steps);
      EXPECT_EQ(d.accepted, steps);
    }
  }
}

TEST(Drafts, SomeStandAndSomeDoNot) {
  const auto model = chain_model(Precision::kF32, 0.5F, 0.1F);
  const Generation out = write(*model, some_tokens(9), kDrawn, 400, 3);
  ASSERT_EQ(out.drafts.size(), 3);
  EXPECT_GT(out.drafts[2].accepted, 0);
  EXPECT_LT(out.drafts[0].accepted, out.drafts[0].made);
  EXPECT_GE(out.drafts[0].accepted, out.drafts[1].accepted);
  EXPECT_GE(out.drafts[1].accepted, out.drafts[2].accepted);
  int64_t stood = 0;
  for (const Generation::Drafts& d : out.drafts) stood += d.accepted;
  EXPECT_EQ(out.steps + stood, out.decoded);
}

// An end within a draft, the last token asked for, a full context: where plain decoding ends.
TEST(Drafts, EndWhereTheTextEnds) {
  const auto model = chain_model(Precision::kF32, 0.2F, 0.02F);
  const std::vector<int32_t> prompt = some_tokens(9);
  const std::vector<int32_t> free = write(*model, prompt, kDrawn, 40, 0).tokens;
  for (const int64_t width : all_widths()) {
    for (const size_t end : {1U, 2U, 5U, 11U}) {
      const std::vector<int32_t> ends = {free[end]};
      Generator plain(*model, {.end_tokens = ends});
      Generator drafting(*model, {.end_tokens = ends, .draft = width});
      const Generation expected = write(plain, prompt, kDrawn, 40);
      const Generation got = write(drafting, prompt, kDrawn, 40);
      EXPECT_EQ(got.tokens, expected.tokens);
      EXPECT_EQ(got.stop, Stop::kEnd);
    }
    for (const int64_t context : {11, 12, 15, 20}) {
      Generator full(*model, {.end_tokens = {}, .context = context, .draft = width});
      const Generation got = write(full, prompt, kDrawn, 40);
      EXPECT_EQ(got.stop, Stop::kContext);
      EXPECT_EQ(got.tokens, std::vector<int32_t>(free.begin(), free.begin() + context - 9));
    }
    for (const int64_t most : {1, 2, 3, 7}) {
      const Generation got = write(*model, prompt, kDrawn, most, width);
      EXPECT_EQ(got.stop, Stop::kMaxTokens);
      EXPECT_EQ(got.tokens, std::vector<int32_t>(free.begin(), free.begin() + most));
    }
  }
}

// Turns of a chat: what the cache holds of the last one is right, though drafts fell.
TEST(Drafts, TheNextTurnReusesTheCache) {
  const auto model = chain_model(Precision::kBF16, 0.5F, 0.1F);
  for (const int64_t width : all_widths()) {
    Generator generator(*model, {.prefill_rows = 5, .draft = width});
    std::vector<int32_t> turn = some_tokens(10);
    for (int i = 0; i < 6; ++i) {
      const Generation out = write(generator, turn, kDrawn, 30);
      EXPECT_EQ(out.tokens, write(*model, turn, kDrawn, 30, 0).tokens) << "turn " << i;
      // All but the last token of an answer, and the row whose next token is another one now.
      if (i > 0) {
        EXPECT_GE(out.reused, std::ssize(turn) - 5);
      }
      turn.insert(turn.end(), out.tokens.begin(), out.tokens.end());
      turn.insert(turn.end(), {3, static_cast<int32_t>(i)});
      if (i == 3) turn.resize(20);  // begins anew in the middle
      if (i == 3) turn.push_back(9);
    }
  }
}

TEST(Drafts, NeedAnMtpLayer) {
  const auto model = tiny_model(Precision::kF32);
  EXPECT_THROW(Generator(*model, {.draft = 1}), Error);
  const std::vector<int32_t> prompt = some_tokens(9);
  EXPECT_EQ(write(*model, prompt, kDrawn, 20, Generator::kAutoDraft).tokens,
            write(*model, prompt, kDrawn, 20, 0).tokens);
}

// The module on rows of a cache against its forward, in FP32; the bound is that of
// Decode.AbsorbedEqualsExpanded, for a layer more.
TEST(Drafts, TheModuleEqualsItsForward) {
  const model::ModelConfig config = config_with_mtp();
  const auto model = tiny_model(Precision::kF32, config);
  const std::vector<int32_t> tokens = some_tokens(40);
  const int64_t S = 39, D = config.hidden_size;
  Arena saved(size_t{1} << 28), scratch(size_t{1} << 28);
  const model::Pass pass{Precision::kF32, saved, scratch};
  model::Batch batch;
  batch.sequences = 1;
  batch.positions = S;
  batch.row_tokens = S + 1;
  batch.tokens = tokens;
  model::Transformer::Saved kept;
  model->forward(batch, {.forced_experts = {}, .counting = false, .depths = 1}, kept, pass);

  LatentCache cache(config, Precision::kF32, config.layers(), S);
  const OwnedTensor trunk(DType::kF32, {S, D}), mtp(DType::kF32, {S, D});
  for (int64_t at = 0; at < S; at += 3) {
    const auto row = static_cast<size_t>(at);
    model->decode(trunk.rows(at, 3), std::span(tokens).subspan(row, 3), cache.next_rows(3), pass);
    model->decode_mtp(mtp.rows(at, 3), trunk.rows(at, 3), std::span(tokens).subspan(row + 1, 3),
                      cache.rows(at, 3), pass);
    cache.advance(3);
  }
  double layer = 0;
  for (const int64_t k :
       {D, config.q_lora_rank, config.kv_lora_rank, config.qk_nope_head_dim, config.latent_width(),
        S, config.kv_lora_rank, config.num_attention_heads * config.v_head_dim, D,
        config.intermediate_size, 2 * D}) {
    layer += std::pow(static_cast<double>(k), 1.5);
  }
  const double relative = 2 * kRoundoffF32 * static_cast<double>(config.layers()) * layer;
  double difference = 0, norm = 0;
  const auto got = mtp.span<float>(), expected = kept.hidden[1].span<float>();
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(double{got[i]} - double{expected[i]}, 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  EXPECT_GT(norm, 0);
  EXPECT_LE(std::sqrt(difference / norm), relative);
}

// Rows whose state nobody asks for leave the same latents, and do not change the last one's.
TEST(Drafts, TheModuleIsAskedForItsLastRow) {
  const model::ModelConfig config = config_with_mtp();
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    const auto model = tiny_model(precision, config);
    const std::vector<int32_t> tokens = some_tokens(9);
    const int64_t D = config.hidden_size, S = 8;
    Arena saved(size_t{1} << 28), scratch(size_t{1} << 28);
    const model::Pass pass{precision, saved, scratch};
    const OwnedTensor trunk(pass.activation(), {S, D}), all(pass.activation(), {S, D}),
        last(pass.activation(), {2, D});
    LatentCache one(config, precision, config.layers(), S),
        two(config, precision, config.layers(), S);
    model->decode(trunk, std::span(tokens).first(S), one.next_rows(S), pass);
    const std::span<const int32_t> next = std::span(tokens).subspan(1);
    model->decode_mtp(all, trunk, next, one.rows(0, S), pass);
    model->decode_mtp(last.rows(0, 1), trunk.rows(0, 5), next.first(5), two.rows(0, 5), pass);
    model->decode_mtp(last.rows(1, 1), trunk.rows(5, 3), next.subspan(5), two.rows(5, 3), pass);
    for (const auto& [row, at] : {std::pair{0, 4}, {1, 7}}) {
      const Tensor got = last.rows(row, 1), expected = all.rows(at, 1);
      EXPECT_EQ(std::memcmp(got.raw(), expected.raw(), expected.bytes()), 0) << at;
    }
  }
}

// Requests that are computed together have the bytes of each alone (trap 14).
TEST(Decode, Trap14RowsOfOtherTextsDoNotMatter) {
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    const auto model = tiny_model(precision, config_with_mtp());
    const model::ModelConfig& config = model->config();
    Arena saved(size_t{1} << 28), scratch(size_t{1} << 28);
    const model::Pass pass{precision, saved, scratch};
    const int64_t steps = 20, V = config.vocab_size;
    // Logits of `count` texts from the first one on, all steps of each.
    const auto logits = [&](int64_t first, int64_t count) {
      std::vector<LatentCache> caches;
      std::vector<float> out(static_cast<size_t>(count * steps * V));
      for (int64_t i = 0; i < count; ++i) {
        caches.emplace_back(config, precision, config.num_hidden_layers, steps);
      }
      const OwnedTensor hidden(pass.activation(), {count, config.hidden_size});
      const OwnedTensor row(DType::kF32, {count, V});
      for (int64_t step = 0; step < steps; ++step) {
        std::vector<model::CacheRow> rows;
        std::vector<int32_t> tokens;
        for (int64_t i = 0; i < count; ++i) {
          rows.push_back(caches[static_cast<size_t>(i)].next_rows(1).front());
          tokens.push_back(
              some_tokens(steps, static_cast<uint64_t>(first + i))[static_cast<size_t>(step)]);
        }
        model->decode(hidden, tokens, rows, pass);
        model->logits(row, hidden, pass);
        for (int64_t i = 0; i < count; ++i) {
          caches[static_cast<size_t>(i)].advance(1);
          std::copy_n(row.data<float>() + i * V, V, out.data() + (i * steps + step) * V);
        }
      }
      return out;
    };
    std::vector<float> alone;
    for (int64_t text = 0; text < 8; ++text) {
      const std::vector<float> one = logits(text, 1);
      alone.insert(alone.end(), one.begin(), one.end());
    }
    for (int64_t batch = 2; batch <= 8; ++batch) {
      const std::vector<float> together = logits(0, batch);
      EXPECT_TRUE(std::equal(together.begin(), together.end(), alone.begin())) << batch << " texts";
    }
  }
}

}  // namespace
}  // namespace minke::infer
