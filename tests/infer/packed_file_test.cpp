// Packed weights on disk: made once, found again, never trusted, and no byte of a text hangs on
// them.
#include "infer/packed_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/small_disk.h"
#include "infer/generation.h"
#include "infer/loaded_model.h"

namespace minke::infer {
namespace {

constexpr size_t kAlways = 1;

class PackedFileOf : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    fs::copy(fs::path(MINKE_GOLDEN_DIR) / GetParam(), folder());
    in_memory_ = text(load());
  }
  fs::path folder() const { return temporary_ / "model"; }
  LoadedModel load(size_t packed_from = LoadOptions().packed_from) const {
    return load_model(folder(), model::Precision::kBF16, {.packed_from = packed_from});
  }
  static std::vector<int32_t> text(const LoadedModel& loaded) {
    Generator generator(*loaded.model, {});
    return generator
        .generate(
            std::vector<int32_t>{3, 4, 5}, {0.9, 0, 1, 0, 7}, 24, [](int32_t) {},
            [] { return false; })
        .tokens;
  }
  // Whether it was made now; and that the text is the one of weights in memory.
  bool makes() const {
    const LoadedModel loaded = load(kAlways);
    EXPECT_EQ(text(loaded), in_memory_);
    EXPECT_EQ(loaded.packed->path().parent_path(), folder());
    return loaded.packed->made();
  }
  const std::vector<int32_t>& in_memory() const { return in_memory_; }
  // Turns the signs of a tensor; the file keeps its size and its time.
  void change(const std::string& name) const {
    const fs::path file = folder() / "model.safetensors";
    std::string bytes = read_file(file);
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof header);
    const auto tensor = nlohmann::json::parse(std::string_view(bytes).substr(8, header)).at(name);
    const size_t step = tensor["dtype"] == "BF16" ? 2 : 1, begin = 8 + header;
    const auto [from, to] = tensor["data_offsets"].get<std::pair<size_t, size_t>>();
    for (size_t i = from + step - 1; i < to; i += step) bytes[begin + i] ^= '\x80';
    const auto time = fs::last_write_time(file);
    write_file_atomic(file, bytes);
    fs::last_write_time(file, time);
  }
  std::vector<fs::path> packed_files() const {
    std::vector<fs::path> out;
    for (const auto& entry : fs::directory_iterator(folder())) {
      if (entry.path().filename().string().starts_with("packed-")) out.push_back(entry.path());
    }
    return out;
  }

 private:
  TemporaryFolder temporary_;
  std::vector<int32_t> in_memory_;
};

TEST_P(PackedFileOf, IsMadeOnceAndMadeAgainWhenItIsNotWhole) {
  EXPECT_TRUE(packed_files().empty());
  EXPECT_TRUE(makes());
  EXPECT_FALSE(makes());
  ASSERT_EQ(packed_files().size(), 1);
  const fs::path file = packed_files().front();
  const std::string whole = read_file(file);
  for (const size_t at : {size_t{0}, whole.size() / 2, whole.size() - 1}) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    write_file_atomic(file, damaged);
    EXPECT_TRUE(makes()) << "byte " << at;
    EXPECT_EQ(read_file(file), whole);
  }
  write_file_atomic(file, std::string_view(whole).substr(0, whole.size() / 3));
  EXPECT_TRUE(makes());
  fs::remove(file);
  EXPECT_TRUE(makes());
  EXPECT_FALSE(makes());
}

// No process has the first number; this one has the second, and may be at work on its file.
TEST_P(PackedFileOf, WhatAKilledProcessLeftIsRemoved) {
  const fs::path stray = folder() / "packed-0123.minke.2147483647";
  const fs::path growing = folder() / fmt::format("packed-0123.minke.{}", ::getpid());
  write_file_atomic(stray, "half");
  write_file_atomic(growing, "half");
  EXPECT_TRUE(makes());
  EXPECT_FALSE(fs::exists(stray));
  EXPECT_TRUE(fs::exists(growing));
}

TEST_P(PackedFileOf, IsOfOnePrecision) {
  EXPECT_TRUE(makes());
  const LoadedModel other = load_model(folder(), model::Precision::kF32, {.packed_from = kAlways});
  EXPECT_TRUE(other.packed->made());
  EXPECT_EQ(packed_files().size(), 2);
  EXPECT_FALSE(makes());
}

// As from an archive, or a copy that keeps times: names, shapes, sizes and times are the same.
TEST_P(PackedFileOf, IsOfTheseWeightsWhateverTheirFilesAreCalled) {
  const LoadedModel before = load(kAlways);
  change("lm_head.weight");
  const std::vector<int32_t> changed = text(load());
  EXPECT_NE(changed, text(before));
  const LoadedModel after = load(kAlways);
  EXPECT_TRUE(after.packed->made());
  EXPECT_EQ(text(after), changed);
  // The one before is gone from the folder, and not from whoever reads it.
  EXPECT_THAT(packed_files(), testing::ElementsAre(after.packed->path()));
  EXPECT_EQ(text(before), in_memory());
  for (const char* name : {"model.layers.1.mlp.experts.1.down_proj.weight",
                           "model.layers.0.self_attn.kv_b_proj.weight"}) {
    change(name);
    EXPECT_TRUE(load(kAlways).packed->made()) << name;
  }
}

TEST_P(PackedFileOf, InACacheIsOfOneFolder) {
  SmallDisk disk(size_t{16} << 20);
  if (!disk.mounted()) GTEST_SKIP() << disk.why_not();
  const TemporaryFolder cache;
  for (const char* name : {"a", "b"}) fs::copy(folder(), disk / name);
  disk.make_read_only();
  ASSERT_EQ(::setenv("XDG_CACHE_HOME", cache.path().c_str(), 1), 0);
  for (const bool made : {true, false}) {
    for (const char* name : {"a", "b"}) {
      const LoadedModel loaded =
          load_model(disk / name, model::Precision::kBF16, {.packed_from = kAlways});
      EXPECT_EQ(loaded.packed->path().parent_path(), cache / "minke");
      EXPECT_EQ(loaded.packed->made(), made) << name;
    }
  }
  ::unsetenv("XDG_CACHE_HOME");
}

// A head of its own that the MTP layer was given: nothing here drafts with it, packed or not.
TEST_P(PackedFileOf, AnotherHeadOfMtpIsLeftOut) {
  const auto config = checkpoint::read_config(folder() / "config.json").model;
  const std::string copy =
      fmt::format("model.layers.{}.shared_head.head.weight", config.num_hidden_layers);
  if (!checkpoint::CheckpointFolder(folder()).contains(copy)) GTEST_SKIP() << "has none";
  change(copy);
  for (const size_t packed_from : {LoadOptions().packed_from, kAlways, kAlways}) {
    const LoadedModel loaded = load(packed_from);
    EXPECT_EQ(loaded.config.model.num_nextn_predict_layers, 0);
    EXPECT_EQ(text(loaded), in_memory());
    EXPECT_THROW(Generator(*loaded.model, {.draft = 2}), Error);
  }
  EXPECT_EQ(packed_files().size(), 1);
}

TEST_P(PackedFileOf, IsNotMadeBesideACheckpointThatTrainingReplaces) {
  write_file_atomic(folder() / "trainer_state.json", "{}");
  const LoadedModel loaded = load(kAlways);
  EXPECT_EQ(loaded.packed, nullptr);
  EXPECT_TRUE(packed_files().empty());
}

INSTANTIATE_TEST_SUITE_P(All, PackedFileOf, testing::Values("v3", "v3-fp8", "moonlight"),
                         [](const auto& which) {
                           std::string name = which.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace minke::infer
