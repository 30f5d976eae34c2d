// Packed weights on disk: made once, found again, never trusted, and no byte of a text hangs on
// them.
#include "infer/packed_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

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

TEST_P(PackedFileOf, IsOfThisCheckpointAndPrecision) {
  EXPECT_TRUE(makes());
  const LoadedModel other = load_model(folder(), model::Precision::kF32, {.packed_from = kAlways});
  EXPECT_TRUE(other.packed->made());
  EXPECT_EQ(packed_files().size(), 2);
  EXPECT_FALSE(makes());
  // Written again: it may hold anything.
  const fs::path weights = folder() / "model.safetensors";
  fs::last_write_time(weights, fs::last_write_time(weights) + std::chrono::seconds(2));
  EXPECT_TRUE(makes());
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
