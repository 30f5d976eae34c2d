// A model to files and back.
#include "checkpoint/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

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

TEST(ModelFiles, ABiasThatIsNotANumberIsRefused) {
  const TemporaryFolder folder;
  const model::ModelConfig config = read_config(golden("v3") / "config.json").model;
  Transformer model(config, Precision::kBF16);
  for (const float bad : {NAN, INFINITY}) {
    model.initialize(1);
    fill_biases(model);
    model.for_each_router(
        [&](int64_t, model::Router& router) { router.bias_E.span<float>()[1] = bad; });
    write_tensors(folder.path() / "model.safetensors", weights_to_save(model));
    const CheckpointFolder files(folder.path());
    EXPECT_THAT([&] { load_weights(model, files, Use::kInference); },
                testing::ThrowsMessage<Error>(testing::AllOf(
                    HasSubstr("model.safetensors"), HasSubstr("e_score_correction_bias: holds"))));
  }
}

TEST(ModelFiles, Trap11BitsOfTheBiasSurvive) {
  const TemporaryFolder folder;
  const model::ModelConfig config = read_config(golden("v3") / "config.json").model;
  Transformer original(config, Precision::kBF16);
  original.initialize(1);
  fill_biases(original);
  write_tensors(folder.path() / "model.safetensors", weights_to_save(original));
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    for (const Use use : {Use::kInference, Use::kTraining}) {
      const CheckpointFolder files(folder.path());
      Transformer loaded(config, precision);
      load_weights(loaded, files, use);
      EXPECT_EQ(bias_bits(loaded), bias_bits(original));
      if (use == Use::kInference) continue;
      const TemporaryFolder again;
      write_tensors(again.path() / "model.safetensors", weights_to_save(loaded));
      EXPECT_EQ(read_file(again / "model.safetensors"), read_file(folder / "model.safetensors"));
    }
  }
}

// Codes of a file, whether they stay codes or become FP32 masters that nobody changes.
TEST(ModelFiles, Fp8IsSavedAsItWasLoaded) {
  const CheckpointFolder files(golden("v3-fp8"));
  for (const Use use : {Use::kInference, Use::kTraining}) {
    const TemporaryFolder folder;
    Transformer model(read_config(golden("v3-fp8") / "config.json").model, Precision::kFp8);
    load_weights(model, files, use);
    write_tensors(folder.path() / "model.safetensors", weights_to_save(model));
    const CheckpointFolder saved(folder.path());
    ASSERT_EQ(saved.tensors().size(), files.tensors().size());
    for (const auto& [tensor, file] : files.tensors()) {
      const StoredTensor &a = files.stored(tensor), &b = saved.stored(tensor);
      EXPECT_EQ(a.dtype, b.dtype) << tensor;
      ASSERT_EQ(a.size, b.size) << tensor;
      EXPECT_EQ(std::memcmp(a.data, b.data, a.size), 0) << tensor;
    }
  }
}

// FP8 checkpoints.

// A copy of a golden whose every second tensor lies in another shard: a weight's scale as a rule in
// another than the weight (trap 7).
void shard(const fs::path& from, const fs::path& to) {
  const CheckpointFolder files(from);
  nlohmann::json map;
  std::vector<TensorSpec> specs[2];
  size_t i = 0;
  for (const auto& [name, file] : files.tensors()) specs[i++ % 2].push_back(file->stored(name));
  for (const size_t s : {0U, 1U}) {
    const std::string file = fmt::format("model-{:05}-of-00002.safetensors", s + 1);
    SafetensorsWriter writer(to / file, specs[s]);
    for (const TensorSpec& spec : writer.order()) {
      writer.write_bytes(files.stored(spec.name).span());
      map[spec.name] = file;
    }
    writer.finish();
  }
  write_file_atomic(to / "model.safetensors.index.json",
                    nlohmann::json{{"weight_map", map}}.dump());
}

TEST(ModelFiles, Trap7AScaleInAnotherShard) {
  const TemporaryFolder folder;
  shard(golden("v3-fp8"), folder.path());
  const CheckpointFolder sharded(folder.path()), whole(golden("v3-fp8"));
  int apart = 0;
  for (const auto& [name, file] : sharded.tensors()) {
    if (!name.ends_with("_scale_inv")) continue;
    apart += file != &sharded.file_of(name.substr(0, name.size() - 10)) ? 1 : 0;
  }
  EXPECT_GT(apart, 10);
  const model::ModelConfig config = read_config(golden("v3-fp8") / "config.json").model;
  Transformer a(config, Precision::kBF16), b(config, Precision::kBF16);
  load_weights(a, sharded, Use::kTraining);
  load_weights(b, whole, Use::kTraining);
  std::vector<Tensor> masters;
  a.for_each_weight([&](model::Weight& weight) { masters.push_back(weight.master()); });
  size_t i = 0;
  b.for_each_weight([&](model::Weight& weight) {
    EXPECT_EQ(std::memcmp(masters[i++].raw(), weight.master().raw(), weight.master().bytes()), 0)
        << weight.pieces()[0].name;
  });
}

TEST(ModelFiles, CodesThatCannotBeAreErrors) {
  const model::ModelConfig config = read_config(golden("v3-fp8") / "config.json").model;
  const CheckpointFolder files(golden("v3-fp8"));
  const std::string name = "model.layers.0.self_attn.o_proj.weight", scale = name + "_scale_inv";
  // The same file, of which one tensor is left out, renamed or changed.
  const auto expect_error = [&](const auto& edit, const model::ModelConfig& with,
                                const auto&... parts) {
    const TemporaryFolder folder;
    std::vector<TensorSpec> specs;
    for (const auto& [tensor, file] : files.tensors()) {
      TensorSpec spec = file->stored(tensor);
      if (edit(spec)) specs.push_back(spec);
    }
    SafetensorsWriter writer(folder / "model.safetensors", specs);
    for (const TensorSpec& spec : writer.order()) {
      std::vector<std::byte> bytes(spec.bytes(), std::byte{0x7f});
      if (const auto stored = files.stored(spec.name).span(); stored.size() == bytes.size()) {
        bytes.assign(stored.begin(), stored.end());
      }
      writer.write_bytes(bytes);
    }
    writer.finish();
    const CheckpointFolder changed(folder.path());
    Transformer model(with, Precision::kBF16);
    EXPECT_THAT([&] { load_weights(model, changed, Use::kInference); },
                Throws<Error>(Property(&Error::what, testing::AllOf(HasSubstr(parts)...))));
  };
  const auto as_is = [](TensorSpec&) { return true; };
  expect_error([&](const TensorSpec& spec) { return spec.name != scale; }, config, scale,
               "missing");
  expect_error(
      [&](TensorSpec& spec) {
        if (spec.name == scale) spec.shape = {1, 1};
        return true;
      },
      config, scale, "[1, 1]");
  model::ModelConfig plain = config;
  plain.quantization.reset();
  expect_error(as_is, plain, "quantization_config");
  model::ModelConfig blocks = config;
  blocks.quantization->cols = 64;
  expect_error(as_is, blocks, "[128, 64]");
  expect_error(
      [&](TensorSpec& spec) {
        const std::string up = "model.layers.0.mlp.up_proj.weight";
        if (spec.name == up) spec.dtype = "BF16";
        return spec.name != up + "_scale_inv";
      },
      config, "up_proj", "quantised together");
}

// The layer's own copy of the head, with one bit turned.
TEST(ModelFiles, ACopyThatDiffersIsAnErrorInTraining) {
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
      [&] { load_weights(model, changed, Use::kTraining); },
      Throws<Error>(Property(&Error::what, testing::AllOf(HasSubstr(copy), HasSubstr("lm_head"),
                                                          HasSubstr("--allow-extra")))));
  EXPECT_THAT(*differing_copy(model.config(), changed), HasSubstr(copy));
}

}  // namespace
}  // namespace minke::checkpoint
