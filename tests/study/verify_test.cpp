// `verify` on every golden, and that it tells a broken engine from a sound one.
#include "study/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "poorer_isas.h"
#include "study/verify_bounds.h"
#include "study/verify_engine.h"
#include "study/verify_write.h"

namespace minke::study {
namespace {

using model::Precision;
using testing::HasSubstr;
using testing::Property;
using testing::Throws;

constexpr const char* kGoldens[] = {
    "v3",      "v3-yarn", "v3-yarn-ramp", "moonlight",        "v3-packed-mtp2",
    "kimi-k2", "v2-lite", "v2",           "v3-negative-bias", "v3-fp8"};

// No golden is so ill-conditioned that FP32 could account for more.
constexpr double kOfGoldens = 1e-5;

fs::path golden(const std::string& name) { return fs::path(MINKE_GOLDEN_DIR) / name; }

const Verdict* find(const Verification& result, const std::string& quantity) {
  const auto at = std::ranges::find(result.verdicts, quantity, &Verdict::quantity);
  return at == result.verdicts.end() ? nullptr : &*at;
}

void expect_verified(const Verification& result) {
  for (const Verdict& v : result.verdicts) {
    EXPECT_TRUE(v.passed()) << v.quantity << ": " << v.error << ", bound " << v.bound << ", "
                            << v.worst << " " << v.note;
  }
}

class EveryGolden : public testing::TestWithParam<std::tuple<const char*, ops::Isa>> {
 protected:
  void SetUp() override { ops::set_isa(std::get<1>(GetParam())); }
  void TearDown() override { ops::set_isa(before_); }
  const GoldenFolder folder_ = read_golden_folder(golden(std::get<0>(GetParam())));

 private:
  const ops::Isa before_ = ops::isa();
};

TEST_P(EveryGolden, IsVerifiedInF32) {
  const Verification result = verify(folder_, {Precision::kF32, {}});
  expect_verified(result);
  for (const Verdict& v : result.verdicts) EXPECT_LE(v.bound, kOfGoldens) << v.quantity;
  for (const char* quantity : {"logits.0", "loss.0", "gradients", "experts", "gate weights",
                               "counts", "latent cache, decoded", "greedy text"}) {
    EXPECT_NE(find(result, quantity), nullptr) << quantity;
  }
}

TEST_P(EveryGolden, IsVerifiedInBF16) {
  const Verification result = verify(folder_, {Precision::kBF16, {}});
  expect_verified(result);
  for (const char* quantity : {"logits.0", "loss.0", "gradients", "experts, chosen freely",
                               "gate weights", "counts", "latent cache, decoded", "greedy text"}) {
    EXPECT_NE(find(result, quantity), nullptr) << quantity;
  }
}

TEST_P(EveryGolden, IsVerifiedInFp8) {
  const Verification result = verify(folder_, {Precision::kFp8, {}});
  expect_verified(result);
  EXPECT_NE(find(result, "gradients"), nullptr);
}

std::string golden_name(const testing::TestParamInfo<EveryGolden::ParamType>& param) {
  std::string name = std::get<0>(param.param);
  std::ranges::replace(name, '-', '_');
  return name + "_" + std::string(ops::isa_name(std::get<1>(param.param)));
}

// Under sanitizers most goldens run on the richest set alone: the others differ in their kernels,
// which op_cases_test.cpp and the tests of ops run on every set.
INSTANTIATE_TEST_SUITE_P(OddSizes, EveryGolden,
                         testing::Combine(testing::Values("v3-odd-sizes"),
                                          testing::ValuesIn(ops::available_isas())),
                         golden_name);
INSTANTIATE_TEST_SUITE_P(Goldens, EveryGolden,
                         testing::Combine(testing::ValuesIn(kGoldens),
                                          testing::Values(ops::available_isas().back())),
                         golden_name);
INSTANTIATE_TEST_SUITE_P(GoldensSlow, EveryGolden,
                         testing::Combine(testing::ValuesIn(kGoldens),
                                          testing::ValuesIn(poorer_isas())),
                         golden_name);

// What is done to the engine, what then fails, and what does not, for it lies before.
struct Fault {
  const char* name;
  std::function<void(model::Transformer&)> change;
  std::vector<std::string> fails, passes;
};

std::function<void(model::Transformer&)> scale(const std::string& name, float factor,
                                               int64_t numbers = -1) {
  return [=](model::Transformer& model) {
    bool found = false;
    model.for_each_weight([&](model::Weight& weight) {
      for (model::Piece& piece : weight.pieces()) {
        if (piece.name != name) continue;
        found = true;
        auto values = piece.value.span<float>();
        if (numbers > 0) values = values.first(static_cast<size_t>(numbers));
        for (float& x : values) x *= factor;
      }
    });
    ASSERT_TRUE(found) << name;
  };
}

std::function<void(model::Transformer&)> change_router(int64_t layer, float shift) {
  return [=](model::Transformer& model) {
    model.for_each_router([&](int64_t at, model::Router& router) {
      if (at == layer) router.bias_E.span<float>()[0] += shift;
    });
  };
}

// Of the golden v3: 3 layers, the first dense, and an MTP layer 3.
std::vector<Fault> faults() {
  const std::string moe = "model.layers.1.mlp.", attention = "model.layers.1.self_attn.";
  return {
      {"an expert", scale(moe + "experts.2.down_proj.weight", 0), {"logits.0", "gradients"}, {}},
      {"the shared expert", scale(moe + "shared_experts.up_proj.weight", 1.1F), {"hidden"}, {}},
      {"a norm", scale("model.layers.0.input_layernorm.weight", 1.05F), {"latent"}, {}},
      {"the latent's norm", scale(attention + "kv_a_layernorm.weight", 1.05F), {"latent"}, {}},
      {"a query", scale(attention + "q_b_proj.weight", 1.2F), {"hidden", "gradients"}, {}},
      {"keys and values", scale(attention + "kv_b_proj.weight", 1.1F), {"hidden, decoded"}, {}},
      {"the gate", scale(moe + "gate.weight", 1.1F), {"gate weights", "balance"}, {}},
      {"a row of the head", scale("lm_head.weight", 0, 64), {"logits.0", "logits.1"}, {"hidden"}},
      {"the MTP's norm",
       scale("model.layers.3.enorm.weight", 1.1F),
       {"logits.1"},
       {"logits.0", "loss.0", "hidden", "latent cache, decoded"}},
      {"the MTP's projection",
       scale("model.layers.3.eh_proj.weight", 1.1F),
       {"logits.1"},
       {"logits.0"}},
      {"a router's bias", change_router(1, 5), {"bias after the update"}, {}},
  };
}

// Slow, as TellsAWrongFormula: what it runs is what EveryGolden runs, with other numbers.
TEST(VerifySlow, TellsABrokenEngine) {
  const GoldenFolder folder = read_golden_folder(golden("v3"));
  for (const Fault& fault : faults()) {
    for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
      SCOPED_TRACE(fmt::format("{}, {}", fault.name, precision == Precision::kF32 ? 32 : 16));
      const Verification result = verify(folder, {precision, fault.change});
      EXPECT_FALSE(result.passed());
      for (const std::string& name : fault.fails) {
        const Verdict* verdict = find(result, name);
        ASSERT_NE(verdict, nullptr) << name;
        EXPECT_FALSE(verdict->passed()) << name << ": " << verdict->error;
      }
      for (const std::string& name : fault.passes) {
        const Verdict* verdict = find(result, name);
        ASSERT_NE(verdict, nullptr) << name;
        EXPECT_TRUE(verdict->passed()) << name << ": " << verdict->error;
      }
    }
  }
}

// The bound of FP32 is derived, too: an error of some tens of roundings shows.
TEST(Verify, TellsAnErrorOfSomeRoundings) {
  const GoldenFolder folder = read_golden_folder(golden("v3"));
  const Verification result =
      verify(folder, {Precision::kF32, scale("lm_head.weight", 1 + 0x1p-18F)});
  EXPECT_FALSE(find(result, "logits.0")->passed());
  EXPECT_LT(find(result, "logits.0")->error, 1e-5);
  EXPECT_TRUE(find(result, "hidden")->passed());
}

// The bias decides who is chosen, which no rounding explains.
TEST(Verify, TellsAWrongChoiceOfExperts) {
  const GoldenFolder folder = read_golden_folder(golden("v3"));
  const auto change = change_router(1, 5);
  const Verification exact = verify(folder, {Precision::kF32, change});
  EXPECT_FALSE(find(exact, "experts")->passed());
  EXPECT_FALSE(find(exact, "counts")->passed());
  const Verification rounded = verify(folder, {Precision::kBF16, change});
  EXPECT_FALSE(find(rounded, "experts, chosen freely")->passed());
  EXPECT_FALSE(find(rounded, "experts, in the text")->passed());
}

// Formulas that the config chooses: each of these would be a fault of the engine, were it to read
// them otherwise.
TEST(VerifySlow, TellsAWrongFormula) {
  using Change = std::function<void(model::ModelConfig&)>;
  const std::vector<std::pair<const char*, Change>> changes = {
      {"theta", [](auto& c) { c.rope_theta = 11000; }},
      {"scaling", [](auto& c) { c.routed_scaling_factor *= 1.05; }},
      {"normalisation", [](auto& c) { c.norm_topk_prob = false; }},
      {"mscale_all_dim", [](auto& c) { c.rope_scaling->mscale_all_dim = 0; }},
      {"mscale", [](auto& c) { c.rope_scaling->mscale = 0; }},
      {"factor", [](auto& c) { c.rope_scaling->factor = 32; }},
      {"no YaRN", [](auto& c) { c.rope_scaling.reset(); }},
  };
  for (const auto& [name, change] : changes) {
    for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
      GoldenFolder folder = read_golden_folder(golden("v3-yarn-ramp"));
      change(folder.config.model);
      const Verification result = verify(folder, {precision, {}});
      EXPECT_FALSE(find(result, "logits.0")->passed()) << name;
      // In BF16 the reference may stand in for the oracle, and is judged itself.
      const Verdict* reference = find(result, "reference for the balance");
      EXPECT_FALSE((reference != nullptr ? reference : find(result, "gradients"))->passed())
          << name;
    }
  }
}

TEST(Verify, TellsWrongWeightsOfTheLosses) {
  for (const bool lambda : {true, false}) {
    GoldenFolder folder = read_golden_folder(golden("v3"));
    (lambda ? folder.batch.lambda : folder.batch.alpha) *= 1.1;
    const Verification result = verify(folder, {Precision::kF32, {}});
    EXPECT_TRUE(find(result, "logits.0")->passed());
    EXPECT_FALSE(find(result, "total")->passed());
    EXPECT_FALSE(find(result, "gradients")->passed());
  }
}

// --- Folders that minke makes.

class Written : public testing::Test {
 protected:
  GoldenFolder write(const fs::path& model, const std::function<void(WriteOptions&)>& edit = {}) {
    WriteOptions options;
    options.model = model;
    if (edit) edit(options);
    fs::remove_all(path());
    write_golden_folder(path(), options);
    return read_golden_folder(path());
  }
  fs::path path() const { return folder_ / "made"; }
  void expect_verified_in_both(const GoldenFolder& folder) {
    for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
      expect_verified(verify(folder, {precision, {}}));
    }
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(Written, FromAConfigWithRandomWeights) {
  for (const char* name : {"v3", "v2"}) {
    const GoldenFolder made = write(golden(name) / "config.json");
    EXPECT_TRUE(made.lacks.empty()) << made.lacks.front();
    expect_verified_in_both(made);
  }
}

// A norm of one channel is the sign of its input: gradients behind it are what rounding leaves.
TEST_F(Written, WhatIsZeroButForRoundingIsNoFault) {
  auto config = nlohmann::json::parse(read_file(golden("v3") / "config.json"));
  config["hidden_size"] = 1;
  const TemporaryFolder folder;
  write_file_atomic(folder / "config.json", config.dump());
  expect_verified_in_both(write(folder / "config.json"));
}

TEST_F(Written, FromAModelItHoldsItsBytes) {
  const GoldenFolder made = write(golden("v3-packed-mtp2"), [](WriteOptions& options) {
    options.documents = true;
    options.seed = 5;
  });
  EXPECT_TRUE(made.batch.mask_documents);
  const checkpoint::CheckpointFolder original(golden("v3-packed-mtp2"));
  ASSERT_EQ(made.files->tensors().size(), original.tensors().size());
  for (const auto& [name, file] : original.tensors()) {
    const checkpoint::StoredTensor &a = file->stored(name), &b = made.files->stored(name);
    EXPECT_EQ(a.dtype, b.dtype);
    ASSERT_EQ(a.size, b.size) << name;
    EXPECT_EQ(std::memcmp(a.data, b.data, a.size), 0) << name;
  }
  expect_verified_in_both(made);
}

TEST_F(Written, FromTheFolderOfARun) {
  const TemporaryFolder run;
  fs::create_directories(run / "checkpoint");
  for (const char* file : {"config.json", "model.safetensors"}) {
    fs::copy(golden("v2") / file, run / "checkpoint");
  }
  expect_verified_in_both(write(run.path()));
}

// Where all tokens are nearly alike, so are all values, and the gradients of queries are small
// differences of large numbers.
TEST_F(Written, IllConditionedGradientsHaveADerivedBound) {
  const TemporaryFolder model;
  fs::copy(golden("v2") / "config.json", model.path());
  const checkpoint::CheckpointFolder files(golden("v2"));
  std::vector<checkpoint::TensorSpec> specs;
  for (const auto& [name, file] : files.tensors()) specs.push_back(file->stored(name));
  checkpoint::SafetensorsWriter writer(model / "model.safetensors", specs);
  for (const auto& spec : writer.order()) {
    const Tensor stored = files.tensor(spec.name);
    if (spec.name != "model.embed_tokens.weight") {
      writer.write(stored);
      continue;
    }
    const OwnedTensor alike(DType::kBF16, stored.shape());
    for (int64_t token = 0; token < stored.dim(0); ++token) {
      const auto first = stored[0].span<bf16>(), own = stored[token].span<bf16>();
      for (size_t i = 0; i < first.size(); ++i) {
        alike[token].data<bf16>()[i] =
            bf16(static_cast<float>(first[i]) + 0x1p-6F * static_cast<float>(own[i]));
      }
    }
    writer.write(alike);
  }
  writer.finish();
  const GoldenFolder made = write(model.path());
  double largest = 0;
  const ReferenceResult got = Engine(made, Precision::kF32, {}).run({});
  for (const auto& [name, numbers] : made.golden.numbers) {
    if (!name.starts_with("grad.")) continue;
    largest = std::max(largest, relative_error(got.numbers.at(name), numbers));
  }
  EXPECT_GT(largest, kOfGoldens);
  expect_verified_in_both(made);
  // It is still no licence.
  const std::string query = "model.layers.1.self_attn.q_b_proj.weight";
  EXPECT_FALSE(find(verify(made, {Precision::kF32, scale(query, 1.01F)}), "gradients")->passed());
}

TEST_F(Written, WhatIsMissingIsNotComparedAndSaid) {
  write(golden("v3") / "config.json");
  // A folder with nothing but tokens and logits.
  const checkpoint::SafetensorsFile all(path() / "golden.safetensors");
  std::vector<checkpoint::TensorSpec> kept;
  for (const char* name : {"tokens", "logits.0"}) kept.push_back(all.stored(name));
  checkpoint::SafetensorsWriter writer(path() / "fewer", kept);
  for (const auto& spec : writer.order()) writer.write_bytes(all.stored(spec.name).span());
  writer.finish();
  fs::rename(path() / "fewer", path() / "golden.safetensors");
  write_file_atomic(path() / "golden.json", "{}");
  const GoldenFolder folder = read_golden_folder(path());
  EXPECT_THAT(folder.lacks, testing::Contains(HasSubstr("grad (")));
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    const Verification result = verify(folder, {precision, {}});
    expect_verified(result);
    EXPECT_NE(find(result, "logits.0"), nullptr);
    EXPECT_EQ(find(result, "logits.1"), nullptr);
    EXPECT_EQ(find(result, "gradients"), nullptr);
  }
}

TEST_F(Written, ADocumentThatBeginsAgainIsAnError) {
  write(golden("v3") / "config.json");
  const checkpoint::SafetensorsFile all(path() / "golden.safetensors");
  const Shape shape = all.tensor("documents").shape();
  const OwnedTensor documents(DType::kI32, shape);
  for (const int64_t i : {int64_t{0}, shape[1] - 1}) documents[1].data<int32_t>()[i] = 3;
  checkpoint::SafetensorsWriter writer(path() / "other",
                                       {all.stored("tokens"), all.stored("documents")});
  for (const auto& spec : writer.order()) {
    writer.write(spec.name == "tokens" ? all.tensor("tokens") : Tensor(documents));
  }
  writer.finish();
  fs::rename(path() / "other", path() / "golden.safetensors");
  EXPECT_THAT([&] { read_golden_folder(path()); },
              Throws<Error>(Property(&Error::what, HasSubstr("3 begins again in sequence 1"))));
}

TEST_F(Written, FaultsAreErrors) {
  const auto expect_fault = [&](const fs::path& model,
                                const std::function<void(WriteOptions&)>& edit,
                                const std::string& what) {
    EXPECT_THAT([&] { write(model, edit); },
                Throws<Error>(Property(&Error::what, HasSubstr(what))));
    EXPECT_FALSE(fs::exists(path()));
  };
  const fs::path v3 = golden("v3");
  expect_fault(golden("configs") / "deepseek-v3.json", {}, "a smaller model");
  expect_fault(
      v3, [](WriteOptions& o) { o.positions = 1; }, "positions");
  expect_fault(
      v3, [](WriteOptions& o) { o.positions = 1 << 20; }, "positions");
  expect_fault(
      v3, [](WriteOptions& o) { o.sequences = 0; }, "sequences");
  expect_fault(
      v3, [](WriteOptions& o) { o.prompt = 0; }, "prompt");
  expect_fault(
      v3, [](WriteOptions& o) { o.text = 1 << 20; }, "tokens in all");
  expect_fault(golden("nowhere"), {}, "nowhere");
}

}  // namespace
}  // namespace minke::study
