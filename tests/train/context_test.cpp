// A context that is extended: what the config then says, and that it is read again so.
#include "train/context.h"

#include <gtest/gtest.h>

#include "checkpoint/hf_config.h"
#include "train/data_corpus.h"
#include "train/tiny.h"

namespace minke::train {
namespace {

using model::ModelConfig;
using model::YarnScaling;

ModelConfig config_of(int64_t context, std::optional<YarnScaling> yarn = {}) {
  ModelConfig c = tiny_config();
  c.max_position_embeddings = context;
  c.rope_scaling = yarn;
  return c;
}

std::optional<double> factor_of(const std::string& text) {
  Options options = tiny_options();
  options.extend_context = text;
  return context_factor_of(options);
}

TEST(ExtendContext, TheFactorIsRead) {
  EXPECT_FALSE(factor_of(""));
  EXPECT_EQ(factor_of("4x"), 4);
  EXPECT_EQ(factor_of("1.5x"), 1.5);
  for (const char* bad : {"4", "x", "1x", "0.5x", "-4x", "nanx", "4xx", " 4x", "2000x"}) {
    EXPECT_THAT([&] { factor_of(bad); }, error_with("--extend-context", bad)) << bad;
  }
}

// The original length is the one that was trained on, where that is known.
TEST(ExtendContext, AModelWithoutYarnGetsV3s) {
  const YarnScaling expected{4, 256, 32, 1, 1.0, 1.0};
  for (const int64_t context : {256, 512, 1024}) {
    ModelConfig c = config_of(context);
    extend_context(c, 4, 256);
    EXPECT_EQ(c.rope_scaling, expected);
    EXPECT_EQ(c.max_position_embeddings, 1024);
  }
  for (const std::optional<int64_t> trained : {std::optional<int64_t>(), {4096}}) {
    ModelConfig c = config_of(256);
    extend_context(c, 4, trained);
    EXPECT_EQ(c.rope_scaling, expected);
    EXPECT_EQ(c.max_position_embeddings, 1024);
  }
  ModelConfig c = config_of(4096);
  extend_context(c, 4, 256);
  EXPECT_EQ(c.max_position_embeddings, 4096);
}

// V3's second extension multiplies the first: 4K -> 32K -> 128K; what V2-Lite says stays.
TEST(ExtendContext, AModelWithYarnKeepsWhatItSays) {
  ModelConfig c = config_of(4096);
  extend_context(c, 8, {});
  EXPECT_EQ(c.max_position_embeddings, 32768);
  extend_context(c, 4, 32768);
  EXPECT_EQ(c.rope_scaling, (YarnScaling{32, 4096, 32, 1, 1.0, 1.0}));
  EXPECT_EQ(c.max_position_embeddings, 131072);

  const YarnScaling v2{40, 4096, 16, 2, 0.707, 0.707};
  c = config_of(163840, v2);
  extend_context(c, 2, {});
  EXPECT_EQ(c.rope_scaling, (YarnScaling{80, 4096, 16, 2, 0.707, 0.707}));
  EXPECT_EQ(c.max_position_embeddings, 327680);
}

TEST(ExtendContext, WhatIsWrittenIsReadAgain) {
  checkpoint::HfConfig config;
  config.model = config_of(256);
  config.kept["rope_scaling"] = nullptr;
  extend_context(config.model, 4, {});
  const auto again = checkpoint::parse_config(checkpoint::config_text(config), "config.json");
  EXPECT_EQ(again.model.rope_scaling, config.model.rope_scaling);
  EXPECT_EQ(again.model.max_position_embeddings, 1024);
}

TEST(ExtendContext, AContextBeyondAllConfigsIsRefused) {
  ModelConfig c = config_of(int64_t{1} << 21);
  EXPECT_THAT([&] { extend_context(c, 1000, {}); }, error_with("max_position_embeddings"));
}

}  // namespace
}  // namespace minke::train
