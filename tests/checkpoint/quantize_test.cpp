// FP8 checkpoints: the tensors and codes of a released one; all else bit for bit.
#include "checkpoint/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "checkpoint/stored_values.h"
#include "golden.h"
#include "tensor/integers.h"
#include "tensor/scales.h"

namespace minke::checkpoint {
namespace {

bool same_bytes(const StoredTensor& a, const StoredTensor& b) {
  return a == b && std::memcmp(a.data, b.data, a.size) == 0;
}

TEST(Quantize, TheTensorsThatReleasedFilesHaveInFp8) {
  const CheckpointFolder released(kGolden / "v3-fp8");
  for (const auto& [name, file] : released.tensors()) {
    EXPECT_EQ(is_fp8_weight(name), released.stored(name).dtype == "F8_E4M3") << name;
    EXPECT_EQ(is_fp8_weight(name), released.contains(scale_name(name))) << name;
  }
}

TEST(Quantize, CodesAreTheDefinitionsAndAllElseIsBitForBit) {
  const CheckpointFolder before(kGolden / "v3");
  const TemporaryFolder out;
  uint64_t read = 0;
  const QuantizedSizes sizes =
      quantize(out.path(), before, read_config(kGolden / "v3" / "config.json"), Extra::kRefused, {},
               [&](uint64_t bytes) { read += bytes; });
  EXPECT_EQ(read, sizes.before);
  EXPECT_LT(sizes.after, sizes.before);
  const HfConfig config = read_config(out / "config.json");
  ASSERT_TRUE(config.model.quantization.has_value());
  EXPECT_EQ(*config.model.quantization, model::Fp8Blocks());

  const CheckpointFolder after(out.path());
  size_t scales = 0, biases = 0;
  for (const auto& [name, file] : before.tensors()) {
    const StoredTensor& was = before.stored(name);
    // Trap 11: the bias's FP32 bits survive.
    if (name.ends_with("e_score_correction_bias")) ++biases;
    if (!is_fp8_weight(name)) {
      EXPECT_TRUE(same_bytes(after.stored(name), was)) << name;
      continue;
    }
    ++scales;
    const Shape shape(was.shape);
    std::vector<float> x = stored_values(before, name, shape);
    const OwnedTensor codes(DType::kE4M3, shape),
        scale(DType::kF32, scale_shape(shape, kBlock128x128));
    quantize_e4m3(codes, scale, Tensor(x.data(), shape), kBlock128x128, ScaleFormat::kF32);
    const Tensor got = after.tensor(name, DType::kE4M3, shape),
                 got_scale = after.tensor(scale_name(name), DType::kF32, scale.shape());
    EXPECT_EQ(std::memcmp(got.raw(), codes.raw(), codes.bytes()), 0) << name;
    EXPECT_EQ(std::memcmp(got_scale.raw(), scale.raw(), scale.bytes()), 0) << name;
  }
  EXPECT_EQ(biases, 3U);
  EXPECT_EQ(after.tensors().size(), before.tensors().size() + scales);
}

// Trap 7, and sizes that fill no whole block: a weight of 200x130 in a shard of its own name.
TEST(Quantize, ShardsKeepTheirNamesAndTheirIndex) {
  const TemporaryFolder in, out;
  const std::string weight = "model.layers.0.self_attn.o_proj.weight", norm = "model.norm.weight";
  std::vector<float> w(200 * 130), n(8, 1.5F);
  for (size_t i = 0; i < w.size(); ++i) w[i] = std::sin(static_cast<float>(i)) * 1e-9F;
  const auto shard = [&](const char* file, const std::string& name, std::vector<float>& x,
                         const Shape& shape) {
    SafetensorsWriter writer(in / file, {{name, DType::kF32, shape}});
    writer.write(Tensor(x.data(), shape));
    writer.finish();
  };
  shard("model-1.safetensors", weight, w, {200, 130});
  shard("model-2.safetensors", norm, n, {8});
  write_file_atomic(in / "model.safetensors.index.json", R"({"weight_map":{")" + weight +
                                                             R"(":"model-1.safetensors",")" + norm +
                                                             R"(":"model-2.safetensors"}})");
  quantize(out.path(), CheckpointFolder(in.path()), read_config(kGolden / "v3" / "config.json"),
           Extra::kRefused, {}, [](uint64_t) {});
  const CheckpointFolder after(out.path());
  EXPECT_EQ(after.file_of(scale_name(weight)).path().filename(), "model-1.safetensors");
  EXPECT_EQ(after.file_of(norm).path().filename(), "model-2.safetensors");
  // Trap 20: small numbers keep their relative precision, E4M3's of the block's largest.
  const auto back = stored_values(after, weight, {200, 130});
  for (size_t i = 0; i < w.size(); ++i) {
    const double step = std::max(std::fabs(w[i]) * kRoundoffE4M3, 1e-9 / 448 * 0x1p-10);
    EXPECT_NEAR(back[i], w[i], step * 1.001) << i;
  }
}

// Experts, shared experts and head as integers: codes by their definition, a config.json that says
// so and that no other reader takes, and a model that loads, for inference and for training.
class QuantizeFrom : public testing::TestWithParam<const char*> {};

TEST_P(QuantizeFrom, ExpertsAndHeadBecomeIntegers) {
  const CheckpointFolder before(kGolden / GetParam());
  const HfConfig config = read_config(kGolden / GetParam() / "config.json");
  for (const int64_t bits : {8, 4}) {
    const TemporaryFolder out;
    model::Fp8Blocks how;
    how.expert_bits = bits;
    how.head_bits = 8;
    quantize(out.path(), before, config, Extra::kRefused, how, [](uint64_t) {});
    const HfConfig after_config = read_config(out / "config.json");
    EXPECT_EQ(after_config.model.quantization, how);
    EXPECT_THAT(read_file(out / "config.json"), testing::HasSubstr("\"minke\""));
    const CheckpointFolder after(out.path());
    size_t of_8 = 0, of_4 = 0;
    for (const auto& [name, file] : before.tensors()) {
      const auto format = integers_of(after_config.model, name);
      const bool expected = name.find("experts.") != std::string::npos ||
                            name == "lm_head.weight" || name.ends_with("shared_head.head.weight");
      if (name.ends_with("_scale_inv")) {
        EXPECT_EQ(after.contains(name), !expected) << name;
        continue;
      }
      EXPECT_EQ(format.has_value(), expected) << name;
      if (!format && config.model.quantization) {  // the rest of FP8 is as it was
        const StoredTensor &a = before.stored(name), &b = after.stored(name);
        EXPECT_EQ(a.dtype, b.dtype) << name;
        EXPECT_TRUE(std::ranges::equal(a.span(), b.span())) << name;
      }
      if (!format) continue;
      ++(*format == DType::kI8 ? of_8 : of_4);
      const Shape shape(before.stored(name).shape);
      std::vector<float> x = stored_values(before, name, shape);
      const OwnedTensor codes(*format, int_codes_shape(shape, *format)),
          scale(DType::kBF16, int_scale_shape(shape, *format));
      quantize_integers(codes, scale, Tensor(x.data(), shape));
      const Tensor got = after.tensor(name, *format, codes.shape()),
                   got_scale = after.tensor(integer_scale_name(name), DType::kBF16, scale.shape());
      EXPECT_EQ(std::memcmp(got.raw(), codes.raw(), codes.bytes()), 0) << name;
      EXPECT_EQ(std::memcmp(got_scale.raw(), scale.raw(), scale.bytes()), 0) << name;
    }
    EXPECT_GT(of_8, 0U);
    EXPECT_EQ(of_4 > 0, bits == 4);
    for (const Use use : {Use::kInference, Use::kTraining}) {
      model::Transformer model(after_config.model, model::Precision::kBF16);
      load_weights(model, after, use);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizeFrom, testing::Values("v3", "v3-fp8"),
                         [](const auto& which) {
                           return which.param == std::string_view("v3") ? "BF16" : "FP8";
                         });

TEST(Quantize, WhatIsFp8AlreadyOrNotFiniteIsRefused) {
  const TemporaryFolder out;
  EXPECT_THROW(quantize(out.path(), CheckpointFolder(kGolden / "v3-fp8"),
                        read_config(kGolden / "v3-fp8" / "config.json"), Extra::kRefused, {},
                        [](uint64_t) {}),
               Error);
  const TemporaryFolder in;
  const std::string weight = "model.layers.0.self_attn.o_proj.weight";
  float x[2] = {1, NAN};
  SafetensorsWriter writer(in / "model.safetensors", {{weight, DType::kF32, {1, 2}}});
  writer.write(Tensor(x, {1, 2}));
  writer.finish();
  try {
    quantize(out.path(), CheckpointFolder(in.path()), read_config(kGolden / "v3" / "config.json"),
             Extra::kRefused, {}, [](uint64_t) {});
    ADD_FAILURE() << "taken";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(weight));
  }
}

}  // namespace
}  // namespace minke::checkpoint
