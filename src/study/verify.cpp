#include "study/verify.h"

#include <algorithm>

#include "base/thread_pool.h"
#include "study/verify_bounds.h"
#include "study/verify_table.h"

namespace minke::study {
namespace {

int64_t count_differences(std::span<const int32_t> a, std::span<const int32_t> b) {
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += a[i] != b[i] ? 1 : 0;
  return count;
}

Verification verify_f32(const GoldenFolder& folder, Engine& engine) {
  VerdictTable table;
  const model::ModelConfig& c = folder.config.model;
  const ReferenceModel model(c, read_weights(*folder.files, c));
  const auto bounds_of = [&](const ReferenceOptions& options,
                             const std::function<void(Values&)>& only) {
    Bounds bounds = derive_bounds(model, folder.batch, options, model.run(folder.batch, options),
                                  f32_rounding(c, folder.batch), only);
    return [bounds = std::move(bounds)](const std::string& name) {
      return bounds.relative.at(name) + kRoundoffF32;
    };
  };
  ReferenceOptions options;
  options.gradients = folder.has_gradients();
  options.forced = folder.golden.experts;
  const ReferenceResult got = engine.run({});
  compare_numbers(table, got, folder.golden.numbers, folder, bounds_of(options, {}));
  for (const auto& [layer, experts] : folder.golden.experts) {
    table.add("experts", route_name(layer, "experts"),
              static_cast<double>(count_differences(got.experts.at(layer), experts)), 0);
  }
  const std::vector<int64_t> lengths = engine.decoded_lengths();
  compare_decoded(
      table, engine.run_decoded({}), folder,
      bounds_of(as_decoded(std::move(options)),
                [&](Values& numbers) { keep_decoded(numbers, lengths, folder.batch.positions); }),
      lengths);
  if (!folder.greedy.empty()) {
    const std::vector<int32_t> text = engine.continue_greedily().tokens;
    const auto agrees = std::ranges::mismatch(text, folder.greedy).in1 - text.begin();
    table.add({"greedy text", 1, static_cast<double>(count_differences(text, folder.greedy)), 0, "",
               text_note(agrees, std::ssize(text))});
  }
  return table.finish();
}

}  // namespace

bool Verification::passed() const {
  return std::ranges::all_of(verdicts, [](const Verdict& v) { return v.passed(); });
}

Verification verify(const GoldenFolder& folder, const VerifyOptions& options) {
  Engine engine(folder, options.precision, options.change);
  check_reference_fits(folder.config.model, std::min(kRuns, thread_count()));
  if (options.precision == model::Precision::kF32) return verify_f32(folder, engine);
  return verify_rounded(folder, engine, options.precision == model::Precision::kFp8);
}

}  // namespace minke::study
