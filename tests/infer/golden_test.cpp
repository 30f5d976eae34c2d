// Greedy continuations of the float64 oracle, from the goldens' folders.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "infer/generation.h"
#include "infer/loaded_model.h"

namespace minke::infer {
namespace {

const char* const kCases[] = {"v3",       "v2",           "v2-lite",          "moonlight",
                              "kimi-k2",  "v3-odd-sizes", "v3-negative-bias", "v3-packed-mtp2",
                              "v3-yarn",  "v3-yarn-ramp", "v3-fp8",           "v3-softmax",
                              "v2-normed"};

class Golden : public testing::TestWithParam<const char*> {
 protected:
  static std::string folder() { return std::string(MINKE_GOLDEN_DIR) + "/" + GetParam(); }
  static std::vector<int32_t> tokens(const char* key) {
    return nlohmann::json::parse(read_file(folder() + "/golden.json"))
        .at(key)
        .get<std::vector<int32_t>>();
  }
  static std::vector<int32_t> continued(Generator& generator, std::span<const int32_t> prompt,
                                        size_t count) {
    return generator
        .generate(
            prompt, {0, 0, 1, 0, 0}, static_cast<int64_t>(count), [](int32_t) {},
            [] { return false; })
        .tokens;
  }
};

TEST_P(Golden, GreedyTextIsTheOracles) {
  const LoadedModel loaded = load_model(folder(), model::Precision::kF32);
  const std::vector<int32_t> prompt = tokens("prompt"), expected = tokens("greedy");
  for (const int64_t rows : {1, 2, 3, 5, 8, 64}) {
    Generator generator(*loaded.model, {.vocabulary = 0, .end_tokens = {}, .prefill_rows = rows});
    EXPECT_EQ(continued(generator, prompt, expected.size()), expected) << rows << " rows a chunk";
  }
}

// In BF16 a near tie may choose otherwise, but whatever is chosen does not depend on the chunks.
TEST_P(Golden, GreedyTextInBF16DoesNotDependOnChunks) {
  const LoadedModel loaded = load_model(folder(), model::Precision::kBF16);
  const std::vector<int32_t> prompt = tokens("prompt");
  std::vector<int32_t> one;
  for (int64_t rows = 1; rows <= 8; ++rows) {
    Generator generator(*loaded.model, {.vocabulary = 0, .end_tokens = {}, .prefill_rows = rows});
    const std::vector<int32_t> text = continued(generator, prompt, 16);
    if (rows == 1) one = text;
    EXPECT_EQ(text, one) << rows << " rows a chunk";
  }
}

INSTANTIATE_TEST_SUITE_P(All, Golden, testing::ValuesIn(kCases), [](const auto& which) {
  std::string name = which.param;
  std::ranges::replace(name, '-', '_');
  return name;
});

}  // namespace
}  // namespace minke::infer
