// Memory of a model in FP8 that is executed in place, counted in pages: what its file holds and
// what products read, and never its weights in another format.
#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "infer/generation.h"
#include "infer/loaded_model.h"
#include "study/synthetic_model.h"

namespace minke::study {
namespace {

constexpr size_t kNever = std::numeric_limits<size_t>::max();
// The weights, once more as BF16, would be twice this share's denominator.
constexpr double kSlack = 1.05;

// Bytes of a line of /proc/self/status.
double status(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name + ":")) return 1024 * std::stod(line.substr(name.size() + 1));
  }
  ADD_FAILURE() << "no " << name;
  return 0;
}

// Heads of 128 and 64, and experts, as the released models have them; about 60 MB of codes.
checkpoint::HfConfig config() {
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
  c.moe_intermediate_size = 256;
  c.n_routed_experts = 32;
  c.num_experts_per_tok = 4;
  c.quantization = model::Fp8Blocks();
  return out;
}

class PeakMemory : public testing::Test {
 protected:
  void SetUp() override {
    write_synthetic_model(folder_.path(), config());
    file_ = static_cast<double>(fs::file_size(folder_ / "model.safetensors"));
    if (!begin()) GTEST_SKIP() << "the system does not let a peak be reset";
  }
  bool begin() {
    std::ofstream reset("/proc/self/clear_refs");  // the peak counts from now on
    if (!(reset << "5").flush()) return false;
    peak_before_ = status("VmHWM");
    anonymous_before_ = status("RssAnon");
    return true;
  }
  // Loads the model and lets it write: what it had at most, and what of it is in no file.
  void run(size_t packed_from) {
    const infer::LoadedModel loaded =
        infer::load_model(folder_.path(), model::Precision::kBF16, {.packed_from = packed_from});
    infer::Generator generator(*loaded.model, {.context = 128});
    const std::vector<int32_t> prompt(64, 7);
    const auto answer = generator.generate(
        prompt, {.temperature = 0}, 16, [](int32_t) {}, [] { return false; });
    EXPECT_GE(answer.tokens.size(), 1);
    operands_ = static_cast<double>(loaded.operands().size());
    cache_ = static_cast<double>(generator.cache_bytes());
    made_ = loaded.packed && loaded.packed->made();
    peak_ = status("VmHWM") - peak_before_;
    anonymous_ = status("RssAnon") - anonymous_before_;
  }

  TemporaryFolder folder_;
  double file_ = 0, operands_ = 0, cache_ = 0, peak_ = 0, anonymous_ = 0;
  bool made_ = false;

 private:
  double peak_before_ = 0, anonymous_before_ = 0;
};

TEST_F(PeakMemory, OfOperandsInMemoryIsTheFileAndThem) {
  run(kNever);
  EXPECT_GT(peak_, operands_);
  EXPECT_LE(peak_, kSlack * (file_ + operands_) + cache_);
}

TEST_F(PeakMemory, OfAPackedFileThatIsMadeIsBothFiles) {
  run(0);
  ASSERT_TRUE(made_);
  EXPECT_GT(peak_, operands_);
  EXPECT_LE(peak_, kSlack * (file_ + operands_) + cache_);
  // All of it is a file's, and can be given back at any time.
  EXPECT_LE(anonymous_, (kSlack - 1) * operands_ + cache_);
}

TEST_F(PeakMemory, OfAPackedFileThatIsThereIsThatFile) {
  infer::load_model(folder_.path(), model::Precision::kBF16, {.packed_from = 0});
  ASSERT_TRUE(begin());
  run(0);
  EXPECT_FALSE(made_);
  const auto embedding =
      static_cast<double>(config().model.vocab_size * config().model.hidden_size * 2);
  EXPECT_LE(peak_, kSlack * (operands_ + embedding) + cache_);
}

}  // namespace
}  // namespace minke::study
