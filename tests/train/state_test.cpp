// A checkpoint holds all that a run is.
#include "train/state.h"

#include <gtest/gtest.h>

#include <bit>
#include <thread>

#include "base/rng.h"
#include "checkpoint/model_files.h"
#include "infer/loaded_model.h"
#include "train/trained.h"

namespace minke::train {
namespace {

using model::Precision;

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

// Trap 18: whatever a trainer_state.json holds, it is read or refused with an Error.
TEST(State, Trap18MutationsAreReadOrThrow) {
  const TemporaryFolder folder;
  Trained run(2);
  run.save(folder.path() / "saved");
  const fs::path path = folder.path() / "saved/trainer_state.json";
  const std::string good = read_file(path);
  Rng rng(stream_key(1, 0, "mutations"));
  int refused = 0, read = 0;
  for (int i = 0; i < 300; ++i) {
    std::string bytes = good;
    const size_t at = rng.below(bytes.size());
    if (rng.below(4) == 0) {
      bytes.resize(at);
    } else {
      bytes[at] = "0123456789{}[]\",:-"[rng.below(18)];
    }
    write_file_atomic(path, bytes);
    checkpoint::load_weights(run.model, checkpoint::CheckpointFolder(folder.path() / "saved"),
                             checkpoint::Use::kTraining);
    try {
      load_state(folder.path() / "saved", run.model, run.trainer, kIdentity);
      EXPECT_GE(run.trainer.done(), 0);
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
  EXPECT_GT(read, 5);
}

// Training goes on while a copy is written, and nothing of it is in the files.
TEST(State, ACopyIsWrittenAsItWasWhileTrainingGoesOn) {
  const TemporaryFolder folder;
  const fs::path now = folder.path() / "now", later = folder.path() / "later",
                 changed = folder.path() / "changed";
  Trained run(3, 0.9);
  run.save(now);
  Snapshot copy = run.snapshot();
  copy.keep();
  std::thread writer([&] { copy.write(later); });
  for (int i = 0; i < 3; ++i) run.trainer.step();
  writer.join();
  run.save(changed);
  int files = 0;
  for (const auto& entry : fs::directory_iterator(now)) {
    const fs::path name = entry.path().filename();
    EXPECT_TRUE(read_file(now / name) == read_file(later / name)) << name;
    ++files;
    if (name.extension() != ".safetensors") continue;
    EXPECT_FALSE(read_file(now / name) == read_file(changed / name)) << name;
  }
  EXPECT_EQ(files, 7);
  EXPECT_EQ(std::distance(fs::directory_iterator(later), {}), files);
  // Masters, two moments, averages, FP32; biases and their averages.
  int64_t numbers = 0;
  run.model.for_each_weight([&](model::Weight& w) { numbers += w.master().count(); });
  EXPECT_NEAR(static_cast<double>(copy.bytes()), 16.0 * static_cast<double>(numbers),
              0.1 * static_cast<double>(copy.bytes()));
  EXPECT_GE(copy.bytes(), 16 * numbers);
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
