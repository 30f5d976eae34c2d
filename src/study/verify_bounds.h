// Errors, and what errors BF16 can account for: the derivation stands in verify.h.
#pragma once

#include <functional>
#include <span>

#include "study/reference_model.h"

namespace minke::study {

// Norm of the difference over the norm of `want`; of two zeros 0, of a non-zero and a zero
// infinity.
double relative_error(std::span<const double> got, std::span<const double> want);
double largest_error(std::span<const double> got, std::span<const double> want);

struct Bounds {
  std::map<std::string, double> relative, absolute;  // by the names of ReferenceResult::numbers
};

// The largest errors of kRuns runs that round as `rounding` says (each with a seed of its own),
// with the experts and the balance loss's fractions of `exact`, which is the result of the same
// batch and options without rounding. A single number's error is one draw, where a tensor's is a
// norm over many: its bound is kSingle times the root mean square of the runs. `only` is called
// with each result before it is compared: to leave out what is not of interest.
Bounds derive_bounds(const ReferenceModel& model, const ReferenceBatch& batch,
                     ReferenceOptions options, const ReferenceResult& exact,
                     const Rounding& rounding, const std::function<void(Values&)>& only = {});

// With it, a correct engine (0.43 of the runs' error, see verify.h) is above the bound once in some
// 10^4 times: Student's t of 8 degrees of freedom beyond 3 / 0.43.
inline constexpr double kSingle = 3;

// Rounding to BF16, and what FP32 does at worst: the error of a sum grows as the square root of its
// length, and no sum of the model is longer than the longest.
Rounding bf16_rounding();
Rounding fp8_rounding();  // and to FP8, where --precision fp8 does
Rounding f32_rounding(const model::ModelConfig& config, const ReferenceBatch& batch);

}  // namespace minke::study
