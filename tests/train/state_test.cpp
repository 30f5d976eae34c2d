// A checkpoint holds all that a run is.
#include "train/state.h"

#include <gtest/gtest.h>

#include <bit>

#include "checkpoint/model_files.h"
#include "infer/loaded_model.h"
#include "train/tiny.h"

namespace minke::train {
namespace {

using model::Precision;

const RunIdentity kIdentity = {"data", "tokenizer", "isa"};

// After three steps at a gamma that gives the biases bits beyond BF16's.
struct Trained {
  checkpoint::HfConfig config;
  model::Transformer model;
  Trainer trainer;
  explicit Trained(int steps)
      : model(tiny_config(), Precision::kBF16), trainer(start(model), options(), counting_rows) {
    config.model = tiny_config();
    for (int i = 0; i < steps; ++i) trainer.step();
  }
  static model::Transformer& start(model::Transformer& m) {
    m.initialize(7);
    return m;
  }
  static Options options() {
    Options o = tiny_options();
    o.gamma = 1.0 / 3;
    return o;
  }
  void save(const fs::path& folder) {
    save_state(folder, model, config, trainer, kIdentity, "no tokenizer");
  }
};

std::vector<uint32_t> bias_bits(model::Transformer& model) {
  std::vector<uint32_t> out;
  model.for_each_router([&](int64_t, model::Router& router) {
    for (const float b : router.bias_E.span<float>()) out.push_back(std::bit_cast<uint32_t>(b));
  });
  return out;
}

TEST(State, Trap11BiasKeepsItsFp32BitsThroughSaveLoadAndResume) {
  const TemporaryFolder folder;
  const fs::path saved = folder.path() / "saved", again = folder.path() / "again";
  Trained run(3);
  const auto bits = bias_bits(run.model);
  // BF16 ends 16 bits earlier, so a bias that went through it would show.
  ASSERT_TRUE(std::ranges::any_of(bits, [](uint32_t b) { return (b & 0xffff) != 0; }));
  run.save(saved);

  int biases = 0;
  const checkpoint::SafetensorsFile file(saved / "model.safetensors");
  for (const auto& [name, tensor] : file.tensors()) {
    if (!name.ends_with("e_score_correction_bias")) continue;
    ++biases;
    EXPECT_EQ(file.tensor(name).dtype(), DType::kF32) << name;
  }
  EXPECT_EQ(biases, 2);  // a layer with experts, and the MTP layer

  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    const infer::LoadedModel loaded = infer::load_model(saved, precision);
    EXPECT_EQ(bias_bits(*loaded.model), bits);
  }

  Trained resumed(0);
  checkpoint::load_weights(resumed.model, checkpoint::CheckpointFolder(saved),
                           checkpoint::Use::kTraining);
  load_state(saved, resumed.model, resumed.trainer, kIdentity);
  EXPECT_EQ(bias_bits(resumed.model), bits);
  resumed.save(again);
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "trainer_state.json"}) {
    EXPECT_TRUE(read_file(saved / name) == read_file(again / name)) << name;
  }
  run.trainer.step();
  resumed.trainer.step();
  EXPECT_EQ(bias_bits(resumed.model), bias_bits(run.model));
  EXPECT_TRUE(state_bytes(resumed.model, resumed.trainer) == state_bytes(run.model, run.trainer));
}

TEST(State, TheDiskThatARunStatesIsEnough) {
  const TemporaryFolder folder;
  Trained run(0);
  run.save(folder.path() / "saved");
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder.path() / "saved")) {
    bytes += entry.file_size();
  }
  EXPECT_LE(bytes, state_bytes_on_disk(run.config.model, run.trainer.options()));
}

}  // namespace
}  // namespace minke::train
