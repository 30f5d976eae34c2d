// Everything that is loaded survives a save, byte for byte.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"
#include "checkpoint/quantize.h"
#include "golden.h"

namespace minke::checkpoint {
namespace {

using model::Precision;
using model::Transformer;
using testing::HasSubstr;

// Tensors by name, and a folder of them in two shards: every second name is in the other, so that a
// weight and its scale are as a rule apart.
struct Content {
  std::map<std::string, TensorSpec> specs;
  std::map<std::string, std::string> bytes;

  void add(const TensorSpec& spec, std::string its_bytes) {
    specs[spec.name] = spec;
    bytes[spec.name] = std::move(its_bytes);
  }
  void write(const fs::path& folder) const {
    nlohmann::json map;
    std::vector<TensorSpec> shards[2];
    size_t i = 0;
    for (const auto& [name, spec] : specs) shards[i++ % 2].push_back(spec);
    for (const size_t s : {0U, 1U}) {
      const std::string file = fmt::format("model-{:05}-of-00002.safetensors", s + 1);
      SafetensorsWriter writer(folder / file, shards[s]);
      for (const TensorSpec& spec : writer.order()) {
        writer.write_bytes(std::as_bytes(std::span(bytes.at(spec.name))));
        map[spec.name] = file;
      }
      writer.finish();
    }
    write_file_atomic(folder / "model.safetensors.index.json",
                      nlohmann::json{{"weight_map", map}}.dump());
  }
};

Content content_of(const fs::path& folder) {
  const CheckpointFolder files(folder);
  Content out;
  for (const auto& [name, file] : files.tensors()) {
    const StoredTensor& stored = file->stored(name);
    out.add(stored, {reinterpret_cast<const char*>(stored.data), stored.size});
  }
  return out;
}

void expect_same(const Content& got, const Content& expected) {
  EXPECT_EQ(got.specs.size(), expected.specs.size());
  for (const auto& [name, spec] : expected.specs) {
    ASSERT_TRUE(got.specs.contains(name)) << name;
    EXPECT_EQ(got.specs.at(name), spec) << name;
    EXPECT_TRUE(got.bytes.at(name) == expected.bytes.at(name)) << name;
  }
}

// What comes out of a folder when it is loaded and saved.
Content saved_again(const fs::path& folder, const model::ModelConfig& config, Use use,
                    Extra extra = Extra::kRefused) {
  const CheckpointFolder files(folder);
  Transformer model(config, Precision::kBF16);
  const std::vector<StoredTensor> extras = load_weights(model, files, use, extra);
  const TemporaryFolder again;
  write_tensors(again.path() / "model.safetensors", weights_to_save(model), extras);
  return content_of(again.path());
}

// Of dtypes that no model has, and one whose name looks like a weight's.
void add_extras(Content& content) {
  content.add({"vision.patch.weight", "F16", {3, 5}}, std::string(30, '\x5a'));
  content.add({"vision.self_attn.q_proj.weight", "F32", {2, 2}}, std::string(16, '\x11'));
  content.add({"nothing", "I64", {0, 7}}, "");
}

class RoundTrip : public testing::TestWithParam<std::string> {};

TEST_P(RoundTrip, EveryTensorOfAGoldenComesBack) {
  const model::ModelConfig config = read_config(kGolden / GetParam() / "config.json").model;
  Content content = content_of(kGolden / GetParam());
  add_extras(content);
  Content with_buffers = content;
  with_buffers.add({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {2}},
                   std::string(8, '\x22'));
  const TemporaryFolder folder;
  with_buffers.write(folder.path());
  expect_same(saved_again(folder.path(), config, Use::kInference, Extra::kKept), content);
  // In training codes become numbers, and are saved as such.
  if (config.quantization) return;
  expect_same(saved_again(folder.path(), config, Use::kTraining, Extra::kKept), content);
}

std::vector<std::string> goldens() {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(kGolden)) {
    if (fs::exists(entry.path() / "model.safetensors")) out.push_back(entry.path().filename());
  }
  std::ranges::sort(out);
  return out;
}

INSTANTIATE_TEST_SUITE_P(Goldens, RoundTrip, testing::ValuesIn(goldens()), [](const auto& which) {
  std::string name = which.param;
  std::erase(name, '-');
  return name;
});

// Five layers, then the MTP layer, in BF16 and as FP8 codes: nothing hangs on 61.
TEST(RoundTripOf, Trap6FiveLayersWithAnMtpLayer) {
  HfConfig config = read_config(kGolden / "v3" / "config.json");
  config.model.num_hidden_layers = 5;
  ASSERT_EQ(config.model.num_nextn_predict_layers, 1);
  Transformer model(config.model, Precision::kBF16);
  model.initialize(3);
  const TemporaryFolder made, quantized;
  write_tensors(made.path() / "model.safetensors", weights_to_save(model));
  const Content content = content_of(made.path());
  for (const char* name : {"eh_proj.weight", "embed_tokens.weight", "shared_head.head.weight",
                           "mlp.experts.0.up_proj.weight", "mlp.gate.e_score_correction_bias"}) {
    EXPECT_TRUE(content.specs.contains(fmt::format("model.layers.5.{}", name))) << name;
  }
  for (const Use use : {Use::kInference, Use::kTraining}) {
    expect_same(saved_again(made.path(), config.model, use), content);
  }
  quantize(quantized.path(), CheckpointFolder(made.path()), config, Extra::kRefused, {},
           [](uint64_t) {});
  const model::ModelConfig fp8 = read_config(quantized / "config.json").model;
  const Content codes = content_of(quantized.path());
  EXPECT_EQ(codes.specs.at("model.layers.5.mlp.experts.0.up_proj.weight").dtype, "F8_E4M3");
  EXPECT_EQ(codes.specs.at("model.layers.5.eh_proj.weight").dtype, "BF16");
  expect_same(saved_again(quantized.path(), fp8, Use::kInference), codes);
}

// A bias in BF16 is read as the numbers that it holds, and written in FP32 as released files are.
TEST(RoundTripOf, Trap11ABiasInBF16IsKeptInFP32) {
  const model::ModelConfig config = read_config(kGolden / "v3" / "config.json").model;
  Content content = content_of(kGolden / "v3");
  std::map<std::string, std::vector<float>> numbers;
  for (auto& [name, spec] : content.specs) {
    if (!name.ends_with("e_score_correction_bias")) continue;
    std::vector<bf16> narrow;
    for (int64_t e = 0; e < config.n_routed_experts; ++e) {
      narrow.emplace_back(0.1F * static_cast<float>(e) - 0.3F);
      numbers[name].push_back(static_cast<float>(narrow.back()));
    }
    spec.dtype = "BF16";
    content.bytes[name].assign(reinterpret_cast<const char*>(narrow.data()),
                               narrow.size() * sizeof(bf16));
  }
  ASSERT_EQ(numbers.size(), 3);
  const TemporaryFolder folder;
  content.write(folder.path());
  for (const Use use : {Use::kInference, Use::kTraining}) {
    const Content saved = saved_again(folder.path(), config, use);
    for (const auto& [name, expected] : numbers) {
      EXPECT_EQ(saved.specs.at(name).dtype, "F32");
      ASSERT_EQ(saved.bytes.at(name).size(), expected.size() * sizeof(float));
      EXPECT_EQ(std::memcmp(saved.bytes.at(name).data(), expected.data(),
                            expected.size() * sizeof(float)),
                0)
          << name;
    }
  }
}

// An extra tensor is refused unless it is asked for, also where weights are written otherwise.
TEST(RoundTripOf, ExtraTensorsAreNamedAndRefused) {
  const HfConfig config = read_config(kGolden / "v3" / "config.json");
  Content content = content_of(kGolden / "v3");
  add_extras(content);
  const TemporaryFolder folder, out;
  content.write(folder.path());
  const CheckpointFolder files(folder.path());
  const auto expect_refused = [](const auto& work) {
    try {
      work();
      ADD_FAILURE() << "taken";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("nothing"), HasSubstr("--allow-extra"),
                                               HasSubstr(".safetensors")));
    }
  };
  expect_refused([&] { saved_again(folder.path(), config.model, Use::kInference); });
  expect_refused(
      [&] { quantize(out.path(), files, config, Extra::kRefused, {}, [](uint64_t) {}); });
  quantize(out.path(), files, config, Extra::kKept, {}, [](uint64_t) {});
  const Content quantized = content_of(out.path());
  Content extras;
  add_extras(extras);
  for (const auto& [name, spec] : extras.specs) {
    EXPECT_EQ(quantized.specs.at(name), spec);
    EXPECT_EQ(quantized.bytes.at(name), extras.bytes.at(name)) << name;
  }
}

}  // namespace
}  // namespace minke::checkpoint
