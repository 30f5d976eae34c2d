#include "study/verify_bounds.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/thread_pool.h"
#include "study/verify.h"

namespace minke::study {

double relative_error(std::span<const double> got, std::span<const double> want) {
  MINKE_CHECK(got.size() == want.size(), "{} numbers against {}", got.size(), want.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  if (difference == 0) return 0;
  return norm == 0 ? std::numeric_limits<double>::infinity() : std::sqrt(difference / norm);
}

double largest_error(std::span<const double> got, std::span<const double> want) {
  MINKE_CHECK(got.size() == want.size(), "{} numbers against {}", got.size(), want.size());
  double largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(got[i] - want[i]);
    if (!(error <= largest)) largest = error;  // NaN stays
  }
  return largest;
}

Bounds derive_bounds(const ReferenceModel& model, const ReferenceBatch& batch,
                     ReferenceOptions options, const ReferenceResult& exact,
                     const Rounding& rounding, const std::function<void(Values&)>& only) {
  options.forced = exact.experts;
  for (const auto& [name, value] : exact.numbers) {
    if (name.ends_with(".fractions")) options.fractions[name] = value;
  }
  Values want = exact.numbers;
  if (only) only(want);
  std::vector<Bounds> runs(kRuns);
  parallel_for(kRuns, 1, [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      ReferenceOptions rounded = options;
      rounded.rounding = rounding;
      rounded.rounding.seed = static_cast<uint64_t>(run) + 1;
      ReferenceResult result = model.run(batch, rounded);
      if (only) only(result.numbers);
      for (const auto& [name, numbers] : result.numbers) {
        runs[run].relative[name] = relative_error(numbers, want.at(name));
        runs[run].absolute[name] = largest_error(numbers, want.at(name));
      }
    }
  });
  Bounds out;
  for (const auto& [name, numbers] : want) {
    const bool single = numbers.size() == 1;
    double relative = 0, absolute = 0, relative_square = 0, absolute_square = 0;
    for (Bounds& run : runs) {
      relative = std::max(relative, run.relative[name]);
      absolute = std::max(absolute, run.absolute[name]);
      relative_square += run.relative[name] * run.relative[name] / kRuns;
      absolute_square += run.absolute[name] * run.absolute[name] / kRuns;
    }
    out.relative[name] = single ? kSingle * std::sqrt(relative_square) : relative;
    out.absolute[name] = single ? kSingle * std::sqrt(absolute_square) : absolute;
  }
  return out;
}

Rounding bf16_rounding() { return {.size = kRoundoffBF16, .bits = 8}; }

Rounding fp8_rounding() { return {.size = kRoundoffBF16, .bits = 8, .fp8 = true}; }

Rounding f32_rounding(const model::ModelConfig& c, const ReferenceBatch& batch) {
  const int64_t longest =
      std::max({c.hidden_size, c.vocab_size, c.intermediate_size,
                c.num_attention_heads * std::max(c.v_head_dim, c.qk_head_dim()), c.q_lora_rank,
                c.n_shared_experts * c.moe_intermediate_size, c.moe_intermediate_size,
                c.kv_lora_rank + c.qk_rope_head_dim, batch.sequences * batch.positions});
  return {.size = kRoundoffF32 * std::sqrt(static_cast<double>(longest)), .bits = 24};
}

}  // namespace minke::study
