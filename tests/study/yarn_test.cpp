// Trap 5: YaRN that is off where a text is no longer than the original length, or an mscale that is
// squared twice or not at all. The policy comes from the config, never from a length.
#include <gtest/gtest.h>

#include "checkpoint/hf_config.h"
#include "study/verify.h"
#include "study/verify_bounds.h"
#include "study/verify_engine.h"
#include "study/verify_write.h"

namespace minke::study {
namespace {

constexpr int64_t kOriginal = 4096;

// One head and one dense layer: small enough for float64 attention over the whole length.
model::ModelConfig yarn_config(double mscale, double mscale_all_dim) {
  model::ModelConfig c;
  c.vocab_size = 11;
  c.hidden_size = 12;
  c.num_hidden_layers = 1;
  c.num_attention_heads = 1;
  c.kv_lora_rank = 6;
  c.qk_nope_head_dim = 2;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 3;
  c.intermediate_size = 10;
  c.moe_intermediate_size = 4;
  c.n_routed_experts = 2;
  c.num_experts_per_tok = 1;
  c.first_k_dense_replace = 1;
  c.max_position_embeddings = 4 * kOriginal;
  model::YarnScaling& yarn = c.rope_scaling.emplace();
  yarn.factor = 40;
  yarn.original_max_position_embeddings = kOriginal;
  yarn.mscale = mscale;
  yarn.mscale_all_dim = mscale_all_dim;
  return c;
}

class Yarn : public testing::TestWithParam<std::pair<double, double>> {
 protected:
  // A folder of that model, its batch one sequence of `positions` tokens.
  GoldenFolder folder_of(const model::ModelConfig& config, int64_t positions) {
    if (!fs::exists(folder_ / "made")) {
      write_file_atomic(folder_ / "config.json", checkpoint::config_text({config, {}}));
      WriteOptions options;
      options.model = folder_ / "config.json";
      options.text = 0;
      write_golden_folder(folder_ / "made", options);
    }
    GoldenFolder out = read_golden_folder(folder_ / "made");
    std::erase_if(out.golden.numbers,
                  [](const auto& item) { return item.first.starts_with("grad."); });
    out.batch.sequences = 1;
    out.batch.positions = positions;
    out.batch.tokens.clear();
    out.batch.documents.clear();
    for (int64_t i = 0; i < positions; ++i) {
      out.batch.tokens.push_back(static_cast<int32_t>(i * i % 7 + i % 5));
    }
    return out;
  }

 private:
  TemporaryFolder folder_;
};

TEST_P(Yarn, Trap5LogitsMatchBelowAtAndAboveTheOriginalLength) {
  const auto [mscale, mscale_all_dim] = GetParam();
  const model::ModelConfig config = yarn_config(mscale, mscale_all_dim);
  ReferenceOptions options;
  options.gradients = false;
  Bounds bounds;
  for (const int64_t positions : {int64_t{24}, kOriginal, kOriginal + 9}) {
    const GoldenFolder folder = folder_of(config, positions);
    const ReferenceModel model(config, read_weights(*folder.files, config));
    const ReferenceResult want = model.run(folder.batch, options);
    Engine engine(folder, model::Precision::kF32, {});
    const ReferenceResult got = engine.run({});
    // Of a longer text as much: attention's sums over it have weights that add up to 1.
    if (bounds.relative.empty()) {
      bounds =
          derive_bounds(model, folder.batch, options, want, f32_rounding(config, folder.batch));
    }
    for (const char* name : {"logits.0", "hidden", "latent.0"}) {
      EXPECT_LE(relative_error(got.numbers.at(name), want.numbers.at(name)),
                bounds.relative.at(name))
          << name << ", " << positions;
    }
    if (positions > 24) continue;
    EXPECT_LE(
        relative_error(engine.run_decoded({}).numbers.at("hidden"), want.numbers.at("hidden")),
        bounds.relative.at("hidden"));
    // Each of the mistakes shows at once.
    const auto expect_other = [&](const std::function<void(model::ModelConfig&)>& edit) {
      model::ModelConfig other = config;
      edit(other);
      const ReferenceResult wrong =
          ReferenceModel(other, model.weights()).run(folder.batch, options);
      EXPECT_GT(relative_error(wrong.numbers.at("logits.0"), want.numbers.at("logits.0")),
                10 * bounds.relative.at("logits.0"));
    };
    expect_other([](auto& c) { c.rope_scaling.reset(); });
    expect_other([](auto& c) { c.rope_scaling->mscale_all_dim = 0; });
    expect_other([](auto& c) { c.rope_scaling->mscale_all_dim *= 2; });
  }
}

INSTANTIATE_TEST_SUITE_P(Mscales, Yarn,
                         testing::Values(std::pair(0.707, 0.707), std::pair(1.0, 1.0),
                                         std::pair(1.0, 0.707)));

}  // namespace
}  // namespace minke::study
