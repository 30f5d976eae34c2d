// A model to files and back.
#include "checkpoint/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/rng.h"
#include "checkpoint/hf_config.h"

namespace minke::checkpoint {
namespace {

using model::Precision;
using model::Transformer;
using testing::HasSubstr;
using testing::Property;
using testing::Throws;

fs::path golden(const std::string& name) { return fs::path(MINKE_GOLDEN_DIR) / name; }

// Numbers of which BF16 would lose the most: all 24 bits of their significands are random.
void fill_biases(Transformer& model) {
  Rng rng(17);
  model.for_each_router([&](int64_t, model::Router& router) {
    for (float& b : router.bias_E.span<float>()) b = static_cast<float>(rng.normal() * 0.1);
  });
}

std::vector<uint32_t> bias_bits(Transformer& model) {
  std::vector<uint32_t> out;
  model.for_each_router([&](int64_t, model::Router& router) {
    for (const float b : router.bias_E.span<float>()) out.push_back(std::bit_cast<uint32_t>(b));
  });
  return out;
}

TEST(ModelFiles, Trap11BitsOfTheBiasSurvive) {
  const TemporaryFolder folder;
  const model::ModelConfig config = read_config(golden("v3") / "config.json").model;
  Transformer original(config, Precision::kBF16);
  original.initialize(1);
  fill_biases(original);
  save_weights(folder.path(), original);
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    for (const Use use : {Use::kInference, Use::kTraining}) {
      const CheckpointFolder files(folder.path());
      Transformer loaded(config, precision);
      load_weights(loaded, files, use);
      EXPECT_EQ(bias_bits(loaded), bias_bits(original));
      if (use == Use::kInference) continue;
      const TemporaryFolder again;
      save_weights(again.path(), loaded);
      EXPECT_EQ(read_file(again / "model.safetensors"), read_file(folder / "model.safetensors"));
    }
  }
}

// Trap 6: MTP layers are where num_hidden_layers says, and no save drops them.
TEST(ModelFiles, Trap6EveryTensorSurvivesLoadAndSave) {
  for (const char* name : {"v3", "v3-packed-mtp2", "v2", "moonlight"}) {
    const TemporaryFolder folder;
    const CheckpointFolder files(golden(name));
    Transformer model(read_config(golden(name) / "config.json").model, Precision::kBF16);
    load_weights(model, files, Use::kTraining);
    save_weights(folder.path(), model);
    const CheckpointFolder saved(folder.path());
    ASSERT_EQ(saved.tensors().size(), files.tensors().size()) << name;
    for (const auto& [tensor, file] : files.tensors()) {
      const StoredTensor &a = files.stored(tensor), &b = saved.stored(tensor);
      EXPECT_EQ(a.dtype, b.dtype) << tensor;
      EXPECT_EQ(a.shape, b.shape) << tensor;
      ASSERT_EQ(a.size, b.size) << tensor;
      EXPECT_EQ(std::memcmp(a.data, b.data, a.size), 0) << tensor;
    }
  }
}

// The layer's own copy of the head, with one bit turned.
TEST(ModelFiles, ACopyThatDiffersIsAnError) {
  const TemporaryFolder folder;
  const CheckpointFolder files(golden("v3"));
  const std::string copy = "model.layers.3.shared_head.head.weight";
  std::vector<TensorSpec> specs;
  for (const auto& [name, file] : files.tensors()) specs.push_back(file->stored(name));
  SafetensorsWriter writer(folder / "model.safetensors", specs);
  for (const TensorSpec& spec : writer.order()) {
    const auto stored = files.stored(spec.name).span();
    std::vector<std::byte> bytes(stored.begin(), stored.end());
    if (spec.name == copy) bytes[5] ^= std::byte{1};
    writer.write_bytes(bytes);
  }
  writer.finish();
  const CheckpointFolder changed(folder.path());
  Transformer model(read_config(golden("v3") / "config.json").model, Precision::kBF16);
  EXPECT_THAT(
      [&] { load_weights(model, changed, Use::kInference); },
      Throws<Error>(Property(&Error::what, testing::AllOf(HasSubstr(copy), HasSubstr("lm_head")))));
}

}  // namespace
}  // namespace minke::checkpoint
