#include "checkpoint/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace minke::checkpoint {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class GenerationConfigFile : public testing::Test {
 protected:
  GenerationConfig read(const std::string& text) const {
    write_file_atomic(folder_ / "generation_config.json", text);
    return read_generation_config(folder_.path());
  }
  void expect_error(const std::string& text, const char* what) const {
    try {
      read(text);
      ADD_FAILURE() << text << " was taken";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(),
                  testing::AllOf(HasSubstr("generation_config.json"), HasSubstr(what)));
    }
  }
  TemporaryFolder folder_;
};

TEST_F(GenerationConfigFile, SaysHowToSampleAndWhatEndsAText) {
  const GenerationConfig none = read_generation_config(folder_.path());
  EXPECT_TRUE(none.eos_token_id.empty());
  EXPECT_FALSE(none.temperature || none.top_p || none.min_p || none.top_k);

  // As DeepSeek-R1's, with a key that nobody here knows.
  const GenerationConfig one = read(
      R"({"_from_model_config": true, "bos_token_id": 0, "eos_token_id": 1, "do_sample": true,
          "temperature": 0.6, "top_p": 0.95})");
  EXPECT_EQ(one.eos_token_id, std::vector<int64_t>{1});
  EXPECT_EQ(one.temperature, 0.6);
  EXPECT_EQ(one.top_p, 0.95);
  EXPECT_FALSE(one.min_p || one.top_k);

  const GenerationConfig many =
      read(R"({"eos_token_id": [5, 6], "top_k": 20, "min_p": 0.1, "temperature": null})");
  EXPECT_EQ(many.eos_token_id, (std::vector<int64_t>{5, 6}));
  EXPECT_EQ(many.top_k, 20);
  EXPECT_EQ(many.min_p, 0.1);
  EXPECT_FALSE(many.temperature);
  EXPECT_EQ(read(R"({"do_sample": false, "temperature": 0.6})").temperature, 0);
}

TEST_F(GenerationConfigFile, IsWrittenAgainWithWhatItSaid) {
  const GenerationConfig config =
      read(R"({"temperature": 0.6, "unknown": [1], "eos_token_id": [5, 6], "bos_token_id": 0})");
  EXPECT_EQ(json::parse(generation_config_text(config, 0, {6})), json(config.kept));
  const json other = json::parse(generation_config_text(config, 2, {7}));
  EXPECT_EQ(other["eos_token_id"], json({7}));
  EXPECT_EQ(other["bos_token_id"], 2);
  EXPECT_EQ(other["temperature"], 0.6);
  EXPECT_TRUE(json::parse(generation_config_text({}, -1, {1})).at("bos_token_id").is_null());
  EXPECT_EQ(json::parse(generation_config_text({}, 0, {1})),
            json({{"bos_token_id", 0}, {"eos_token_id", {1}}}));
}

TEST_F(GenerationConfigFile, WhatItCannotMeanIsAnError) {
  expect_error("[]", "expected an object");
  expect_error("{", "JSON");
  expect_error(R"({"temperature": -1})", "temperature is -1");
  expect_error(R"({"temperature": "warm"})", "temperature is \"warm\"");
  expect_error(R"({"top_p": 1.5})", "top_p is 1.5, expected a number from 0 to 1");
  expect_error(R"({"top_k": -1})", "top_k is -1");
  expect_error(R"({"eos_token_id": [1, "x"]})", "eos_token_id is \"x\"");
  expect_error(R"({"eos_token_id": 4294967296})", "eos_token_id is 4294967296");
  expect_error(R"({"do_sample": 1})", "do_sample is 1");
}

}  // namespace
}  // namespace minke::checkpoint
