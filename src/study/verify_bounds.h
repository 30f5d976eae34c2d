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

// The largest errors of kRuns runs that round at worst, with the experts and the balance loss's
// fractions of `exact`, which is the result of the same batch and options without rounding. `only`
// is called with each result before it is compared: to leave out what is not of interest.
Bounds derive_bounds(const ReferenceModel& model, const ReferenceBatch& batch,
                     ReferenceOptions options, const ReferenceResult& exact,
                     const std::function<void(Values&)>& only = {});

}  // namespace minke::study
