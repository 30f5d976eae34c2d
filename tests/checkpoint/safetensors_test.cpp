#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>
#include <fstream>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/small_disk.h"

namespace minke::checkpoint {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Throws;

auto error_with(const auto&... parts) {
  return Throws<Error>(testing::Property(
      &Error::what,
      testing::ResultOf([](const char* s) { return std::string(s); }, AllOf(HasSubstr(parts)...))));
}

// A file of a header and as many bytes of numbers.
std::string file_bytes(const std::string& header, size_t numbers) {
  const uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  bytes += header;
  for (size_t i = 0; i < numbers; ++i) bytes += static_cast<char>(i);
  return bytes;
}

void write(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// Two tensors in a file, and what the file is when they are written in either order.
struct Example {
  std::vector<float> f = {1, 2, 3, 4, 5, 6};
  std::vector<bf16> b = {bf16(0.5F), bf16(-2.0F), bf16(7.0F)};
  Tensor f_tensor{f.data(), {2, 3}}, b_tensor{b.data(), {3}};

  void write_to(const fs::path& path, bool swapped = false) const {
    std::vector<TensorSpec> specs = {{"model.b", DType::kBF16, {3}},
                                     {"model.f", DType::kF32, {2, 3}}};
    if (swapped) std::swap(specs[0], specs[1]);
    SafetensorsWriter writer(path, specs);
    for (const TensorSpec& spec : writer.order()) {
      writer.write(spec.name == "model.f" ? f_tensor : b_tensor);
    }
    writer.finish();
  }
};

TEST(SafetensorsTest, WhatIsWrittenIsRead) {
  const TemporaryFolder folder;
  const Example example;
  example.write_to(folder / "a.safetensors");
  const SafetensorsFile file(folder / "a.safetensors");
  EXPECT_EQ(file.tensors().size(), 2U);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const Tensor f = file.tensor("model.f", DType::kF32, {2, 3});
  EXPECT_TRUE(std::equal(example.f.begin(), example.f.end(), f.data<float>()));
  const Tensor b = file.tensor("model.b");
  EXPECT_EQ(b.dtype(), DType::kBF16);
  EXPECT_EQ(b.shape(), (Shape{3}));
  EXPECT_TRUE(std::equal(example.b.begin(), example.b.end(), b.data<bf16>()));
}

TEST(SafetensorsTest, BytesDoNotDependOnTheOrderAndAreAligned) {
  const TemporaryFolder folder;
  const Example example;
  example.write_to(folder / "a.safetensors");
  example.write_to(folder / "b.safetensors", true);
  const std::string a = read_file(folder / "a.safetensors");
  EXPECT_EQ(a, read_file(folder / "b.safetensors"));
  uint64_t header = 0;
  std::memcpy(&header, a.data(), sizeof header);
  EXPECT_EQ(header % 8, 0U);
  // By hand from the format's description.
  std::string expected =
      R"({"__metadata__":{"format":"pt"},"model.b":{"data_offsets":[24,30],"dtype":"BF16",)"
      R"("shape":[3]},"model.f":{"data_offsets":[0,24],"dtype":"F32","shape":[2,3]}})";
  expected.resize((expected.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(a.substr(8, header), expected);
  EXPECT_EQ(a.size(), 8 + header + 30);
}

TEST(SafetensorsTest, NothingAppearsBeforeFinish) {
  const TemporaryFolder folder;
  {
    SafetensorsWriter writer(folder / "a.safetensors", {{"x", DType::kF32, {2}}});
    const std::vector<float> x = {1, 2};
    writer.write_bytes(std::as_bytes(std::span(x)).first(3));
    writer.write_bytes(std::as_bytes(std::span(x)).subspan(3));
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(SafetensorsTest, ReadsEveryGolden) {
  int64_t files = 0, tensors = 0;
  for (const auto& entry : fs::recursive_directory_iterator(MINKE_GOLDEN_DIR)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(entry.path());
    for (const auto& [name, stored] : file.tensors()) {
      EXPECT_EQ(file.tensor(name).bytes(), stored.size);
      ++tensors;
    }
    ++files;
  }
  EXPECT_EQ(files, 28);
  EXPECT_GT(tensors, 1000);
}

TEST(SafetensorsTest, MisalignedTensorsCanBeRead) {
  const TemporaryFolder folder;
  const std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("x":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  std::string bytes = file_bytes(header, 5);
  const float value = 3.25F;
  std::memcpy(bytes.data() + bytes.size() - 4, &value, 4);
  write(folder / "a.safetensors", bytes);
  const SafetensorsFile file(folder / "a.safetensors");
  const auto* at = file.tensor("x").data<float>();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % alignof(float), 0U);
  EXPECT_EQ(*at, value);
}

TEST(SafetensorsTest, CarriesDtypesItCannotCompute) {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  write(path, file_bytes(R"({"x":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}})", 8));
  const SafetensorsFile file(path);
  EXPECT_THAT([&] { file.tensor("x"); },
              error_with(path.string(), "x", "F16", "expected F32, BF16"));
  const fs::path copy = folder / "b.safetensors";
  {
    SafetensorsWriter writer(copy, {file.stored("x")});
    writer.write_bytes(file.stored("x").span());
    writer.finish();
  }
  const SafetensorsFile again(copy);
  EXPECT_EQ(static_cast<const TensorSpec&>(again.stored("x")), file.stored("x"));
}

TEST(SafetensorsTest, ErrorsNameFileTensorExpectedAndGot) {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  Example().write_to(path);
  const SafetensorsFile file(path);
  EXPECT_THAT([&] { file.tensor("model.g"); }, error_with(path.string(), "no tensor model.g"));
  EXPECT_THAT(
      [&] {
        file.tensor("model.f", DType::kF32, {3, 2});
      },
      error_with(path.string(), "model.f", "is F32 [2, 3]", "expected F32 [3, 2]"));
  EXPECT_THAT(
      [&] {
        file.tensor("model.f", DType::kBF16, {2, 3});
      },
      error_with("is F32 [2, 3]", "expected BF16 [2, 3]"));
}

struct BadHeader {
  const char* header;
  size_t numbers;
  const char* message;
};

TEST(SafetensorsTest, BadHeaders) {
  const std::vector<BadHeader> cases = {
      {"[]", 0, "expected an object"},
      {"{", 0, "not valid JSON"},
      {R"({"x":1})", 0, "x: is 1, expected an object"},
      {R"({"x":{"dtype":"F32","shape":[1]}})", 4, "has no data_offsets"},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"y":1}})", 4, "expected dtype"},
      {R"({"x":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, "dtype is \"F31\""},
      {R"({"x":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype is 1"},
      {R"({"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape has -1"},
      {R"({"x":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "shape has 1.5"},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "expected 8 bytes"},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "data_offsets are [4, 0]"},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7, "truncated"},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "5 bytes of numbers"},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})", 5, "begins at byte 1"},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("y":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
       6, "begins at byte 2"},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "\"x\" stands twice"},
      // Products that wrap around to something small.
      {R"({"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "more than any file holds"},
      {R"({"x":{"dtype":"F32","shape":[0,9223372036854775807,3],"data_offsets":[0,0]}})", 0,
       "more than any file holds"},
      {R"({"x":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]}})", 0,
       "whole number"},
      {R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551615,3]}})", 4,
       "whole number"},
      {R"({"x\ny":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "none of control"},
      {R"({"__metadata__":{"a":1}})", 0, "expected a string"},
      {R"({"x":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1, "whole bytes"},
  };
  const TemporaryFolder folder;
  for (const BadHeader& bad : cases) {
    write(folder / "a.safetensors", file_bytes(bad.header, bad.numbers));
    EXPECT_THAT([&] { SafetensorsFile file(folder / "a.safetensors"); },
                error_with((folder / "a.safetensors").string(), bad.message))
        << bad.header;
  }
}

TEST(SafetensorsTest, BadLengths) {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  EXPECT_THAT([&] { SafetensorsFile file(path); }, error_with(path.string(), "cannot open"));
  write(path, "1234567");
  EXPECT_THAT([&] { SafetensorsFile file(path); }, error_with("too short"));
  for (const uint64_t length :
       {uint64_t{1}, uint64_t{100'000'001}, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, sizeof length);
    write(path, bytes);
    EXPECT_THAT([&] { SafetensorsFile file(path); }, error_with("header of"));
  }
  write(path, file_bytes(std::string(1000, '['), 0));
  EXPECT_THAT([&] { SafetensorsFile file(path); }, error_with("nested deeper"));
}

// Trap 18: whatever the bytes, a file is read whole or refused with an Error.
TEST(SafetensorsTest, Trap18MutationsAreReadOrThrow) {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  Example().write_to(path);
  const std::string good = read_file(path);
  Rng rng(stream_key(1, 0, "mutations"));
  int refused = 0, read = 0;
  for (int i = 0; i < 500; ++i) {
    std::string bytes = good;
    for (uint64_t edits = 1 + rng.below(4); edits > 0; --edits) {
      const size_t at = rng.below(bytes.size());
      switch (rng.below(4)) {
        case 0:
          bytes.resize(std::max<size_t>(at, 1));
          break;
        case 1:
          bytes[at] = static_cast<char>(rng.next_u32());
          break;
        case 2:
          bytes[at] = "0123456789{}[]\",:-"[rng.below(18)];
          break;
        default: {
          const uint64_t huge = rng.next_u64() >> rng.below(64);
          std::memcpy(bytes.data(), &huge, std::min(bytes.size(), sizeof huge));
        }
      }
    }
    write(path, bytes);
    try {
      const SafetensorsFile file(path);
      for (const auto& [name, stored] : file.tensors()) {
        uint64_t sum = 0;
        for (const std::byte b : stored.span()) sum += static_cast<uint64_t>(b);
        EXPECT_LE(sum, 255 * stored.size);
      }
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
  EXPECT_GT(read, 5);
}

TEST(SafetensorsTest, AFullDiskLeavesTheLastGoodFile) {
  SmallDisk disk(64 << 10);
  if (!disk.mounted()) GTEST_SKIP() << disk.why_not();
  const Example example;
  example.write_to(disk / "a.safetensors");
  const std::string before = read_file(disk / "a.safetensors");
  const std::vector<float> much(64 << 10);
  EXPECT_THAT(
      [&] {
        SafetensorsWriter writer(disk / "a.safetensors", {{"x", DType::kF32, {std::ssize(much)}}});
        writer.write(Tensor(much.data(), {std::ssize(much)}));
        writer.finish();
      },
      error_with((disk / "a.safetensors").string(), "No space left"));
  EXPECT_EQ(read_file(disk / "a.safetensors"), before);
}

class ShardsTest : public testing::Test {
 protected:
  void write_shard(const std::string& file, const std::vector<std::string>& names) {
    std::vector<TensorSpec> specs;
    specs.reserve(names.size());
    for (const std::string& name : names) specs.emplace_back(name, DType::kF32, Shape{1});
    SafetensorsWriter writer(folder_ / file, specs);
    for (const TensorSpec& spec : writer.order()) {
      const auto value = static_cast<float>(spec.name.back());
      writer.write(Tensor(&value, {1}));
    }
    writer.finish();
  }
  void write_index(const std::string& map) {
    write(folder_ / "model.safetensors.index.json", R"({"metadata":{},"weight_map":)" + map + "}");
  }

  TemporaryFolder folder_;
};

// A weight and its scale may lie apart.
TEST_F(ShardsTest, OneMapOverAllShards) {
  write_shard("model-1.safetensors", {"w", "b"});
  write_shard("model-2.safetensors", {"w_scale_inv"});
  write_index(R"({"w":"model-1.safetensors","b":"model-1.safetensors",
                  "w_scale_inv":"model-2.safetensors"})");
  const CheckpointFolder files(folder_.path());
  EXPECT_EQ(files.tensors().size(), 3U);
  EXPECT_EQ(*files.tensor("w", DType::kF32, {1}).data<float>(), 'w');
  EXPECT_EQ(*files.tensor("w_scale_inv").data<float>(), 'v');
  EXPECT_EQ(files.file_of("w_scale_inv").path().filename(), "model-2.safetensors");
  EXPECT_THAT([&] { files.tensor("x"); }, error_with(folder_.path().string(), "no tensor x"));
}

TEST_F(ShardsTest, OneFileWithoutAnIndex) {
  write_shard("model.safetensors", {"w"});
  write_shard("optimizer.safetensors", {"m"});
  EXPECT_TRUE(CheckpointFolder(folder_.path()).contains("w"));
  EXPECT_TRUE(CheckpointFolder(folder_.path(), "optimizer").contains("m"));
  EXPECT_TRUE(CheckpointFolder(folder_ / "optimizer.safetensors").contains("m"));
}

TEST_F(ShardsTest, WhatTheIndexForgetsIsStillThere) {
  write_shard("model-1.safetensors", {"w", "forgotten"});
  write_index(R"({"w":"model-1.safetensors"})");
  EXPECT_TRUE(CheckpointFolder(folder_.path()).contains("forgotten"));
}

TEST_F(ShardsTest, BadFolders) {
  const auto open = [&] { CheckpointFolder files(folder_.path()); };
  EXPECT_THAT(open, error_with(folder_.path().string(), "model.safetensors.index.json", "neither"));
  EXPECT_THAT([&] { CheckpointFolder files(folder_ / "none"); },
              error_with("no such file or folder"));
  write_shard("model-1.safetensors", {"w"});
  write_index(R"({"w":"model-1.safetensors","b":"model-2.safetensors"})");
  EXPECT_THAT(open, error_with("model-2.safetensors", "no such file", "\"b\""));
  write_index(R"({"w":"model-1.safetensors","b":"model-1.safetensors"})");
  EXPECT_THAT(open, error_with("model-1.safetensors", "no tensor \"b\""));
  write_shard("model-2.safetensors", {"w", "b"});
  write_index(R"({"w":"model-1.safetensors","b":"model-2.safetensors"})");
  EXPECT_THAT(open, error_with("w is also in"));
  for (const char* map : {R"({"w":"../model-1.safetensors"})", R"({"w":"/etc/passwd"})",
                          R"({"w":3})", R"({"w":".."})", R"({"w":""})"}) {
    write_index(map);
    EXPECT_THAT(open, error_with("expected the name of a .safetensors file")) << map;
  }
  for (const char* map : {"{}", "[]", "3"}) {
    write_index(map);
    EXPECT_THAT(open, error_with("weight_map")) << map;
  }
}

}  // namespace
}  // namespace minke::checkpoint
