// Memory of a model in FP8 that is executed in place, counted in pages: what its file holds and
// what products read, and never its weights in another format.
//
// What a program takes besides does not grow with the weights, so two models are compared that
// differ in their number of experts alone.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "infer/generation.h"
#include "infer/loaded_model.h"
#include "study/synthetic_model.h"

namespace minke::study {
namespace {

constexpr size_t kInMemory = std::numeric_limits<size_t>::max(), kInAFile = 0;
constexpr int64_t kFew = 4, kMany = 12;
// The weights once more, as BF16, would be twice as many bytes as the codes themselves.
constexpr double kSlack = 0.05;

// Bytes of a line of /proc/self/status.
double status(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name + ":")) return 1024 * std::stod(line.substr(name.size() + 1));
  }
  ADD_FAILURE() << "no " << name;
  return 0;
}

// The peak counts from now on. False where the system does not allow it.
bool reset_peak() {
  std::ofstream file("/proc/self/clear_refs");
  return static_cast<bool>((file << "5").flush());
}

// Heads of 128 and 64, as the released models have them; 6 MB of codes for each expert.
checkpoint::HfConfig config_of(int64_t experts) {
  checkpoint::HfConfig out =
      checkpoint::read_config(fs::path(MINKE_GOLDEN_DIR) / "configs/moonlight-16b-a3b.json");
  model::ModelConfig& c = out.model;
  c.vocab_size = 2048;
  c.bos_token_id = 0;
  c.eos_token_id = {1};
  c.hidden_size = 1024;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 8;
  c.intermediate_size = 2048;
  c.moe_intermediate_size = 1024;  // tensors so large that their names do not count
  c.n_routed_experts = experts;
  c.num_experts_per_tok = 4;
  c.quantization = model::Fp8Blocks();
  return out;
}

struct Memory {
  double file = 0, operands = 0;   // bytes of weights, as stored and as products read them
  double peak = 0, anonymous = 0;  // of pages, and at the end those that are of no file
  friend Memory operator-(const Memory& a, const Memory& b) {
    return {a.file - b.file, a.operands - b.operands, a.peak - b.peak, a.anonymous - b.anonymous};
  }
};

// Of a model that is loaded and writes a text.
Memory measured(const fs::path& folder, size_t packed_from) {
  Memory out;
  EXPECT_TRUE(reset_peak());
  const double peak = status("VmHWM"), anonymous = status("RssAnon");
  const infer::LoadedModel loaded =
      infer::load_model(folder, model::Precision::kBF16, {.packed_from = packed_from});
  infer::Generator generator(*loaded.model, {.context = 128});
  const auto answer = generator.generate(
      std::vector<int32_t>(64, 7), {.temperature = 0}, 16, [](int32_t) {}, [] { return false; });
  EXPECT_GE(answer.tokens.size(), 1);
  out.file = static_cast<double>(fs::file_size(folder / "model.safetensors"));
  out.operands = static_cast<double>(loaded.operands().size());
  out.peak = status("VmHWM") - peak;
  out.anonymous = status("RssAnon") - anonymous;
  return out;
}

class PeakMemory : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer keeps pages of its own for every page";
#endif
    if (!reset_peak()) GTEST_SKIP() << "the system does not let a peak be reset";
    write_synthetic_model(few_.path(), config_of(kFew));
    write_synthetic_model(many_.path(), config_of(kMany));
  }
  // What so many more experts take.
  Memory more(size_t packed_from) const {
    const Memory few = measured(few_.path(), packed_from);
    return measured(many_.path(), packed_from) - few;
  }
  const fs::path& many() const { return many_.path(); }

 private:
  TemporaryFolder few_, many_;
};

TEST_F(PeakMemory, OfOperandsInMemoryIsTheFileAndThem) {
  const Memory m = more(kInMemory);
  EXPECT_GT(m.operands, 48e6);
  EXPECT_GT(m.peak, m.operands);  // so what is counted is there
  EXPECT_LE(m.peak, (1 + kSlack) * (m.file + m.operands));
  EXPECT_LE(m.anonymous, (1 + kSlack) * m.operands);
}

// The first time both files are in memory; all of it is a file's, and can be given back.
TEST_F(PeakMemory, OfAPackedFileIsBothFilesAndThenThatOne) {
  const Memory made = more(kInAFile), found = more(kInAFile);
  EXPECT_GT(made.peak, made.operands);
  EXPECT_LE(made.peak, (1 + kSlack) * (made.file + made.operands));
  EXPECT_LE(made.anonymous, kSlack * made.operands);
  // Of the source, which is mapped too, next to nothing is read.
  EXPECT_LE(found.peak, found.operands + kSlack * (found.file + found.operands));
  EXPECT_LE(found.anonymous, kSlack * found.operands);
}

// Bytes of a file that are in memory, whoever read them.
double cached(const fs::path& path) {
  const MappedFile file(path);
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((file.bytes().size() + page - 1) / page);
  auto* const data = const_cast<std::byte*>(file.bytes().data());
  EXPECT_EQ(::mincore(data, file.bytes().size(), pages.data()), 0);
  const auto is_there = [](unsigned char p) { return (p & 1) != 0; };
  return static_cast<double>(page) * static_cast<double>(std::ranges::count_if(pages, is_there));
}

// Else a start would read a checkpoint from disk only to learn that it has been packed.
TEST_F(PeakMemory, OfAPackedFileIsFoundByPagesOfItsSource) {
  const fs::path source = many() / "model.safetensors";
  const fs::path packed =
      infer::load_model(many(), model::Precision::kBF16, {.packed_from = kInAFile}).packed->path();
  const model::Transformer model(checkpoint::read_config(many() / "config.json").model,
                                 model::Precision::kBF16);
  const checkpoint::CheckpointFolder files(many());
  const int fd = ::open(source.c_str(), O_RDONLY);
  ASSERT_EQ(::fsync(fd), 0);
  ASSERT_EQ(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
  ::close(fd);
  const double size = static_cast<double>(fs::file_size(source)), before = cached(source);
  if (before > size / 4) GTEST_SKIP() << "the file system keeps a file's pages";
  EXPECT_EQ(infer::PackedFile::path_of(many(), files, model), packed);
  EXPECT_GT(cached(source), before);
  EXPECT_LT(cached(source) - before, size / 16);
}

}  // namespace
}  // namespace minke::study
