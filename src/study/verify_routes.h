// Whether another choice of experts is a rounding's doing.
//
// A router that computes its scores with an error of at most e may choose other experts than the
// exact scores would: where the scores that would have to swap lie within 2 e of each other (each
// may be off by e), and the scores of two groups within 4 e where a group's is the sum of its best
// two (noaux_tc), or 2 e where it is its best (group_limited_greedy). No larger difference can be
// explained so: it is a fault.
#pragma once

#include <cstdint>
#include <span>

#include "ref/router.h"

namespace minke::study {

// The smallest error of the scores of one token with which `experts` (K, ascending) could have been
// chosen; 0 where the exact scores choose them; infinity where no scores within reach do (experts
// of more groups than are kept). scores [E] unbiased, bias [E] or empty.
double smallest_score_error(std::span<const int32_t> experts, std::span<const double> scores,
                            std::span<const double> bias, const ref::Routing& how);

}  // namespace minke::study
