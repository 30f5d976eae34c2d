// Verification of the engine against what an oracle computed, in FP32, BF16 or FP8, on the
// instruction set in use.
//
// Bounds are derived for the model at hand, never chosen. The error of a quantity is the norm of
// the difference over the norm.
//
// BF16: the engine rounds to BF16 at known points (docs/NUMERICS.md). The float64 reference runs
// with each of those roundings replaced by its worst magnitude, 2^-8 of the number, with a random
// sign (numbers that lie between the same two of BF16 err alike, see Rounding); the largest error
// that a quantity shows over kRuns such runs is its bound. A real rounding error is spread evenly
// over half a unit in the last place, so its root mean square is 2^-8 sqrt(1/3 E[1/m^2]) = 0.43 *
// 2^-8 for numbers whose significand m in [1, 2) is spread as that of most data is
// (log-uniformly): a correct engine stays well below the bound, and one with a wrong term does
// not. What is summed up in FP32 adds what FP32's roundings have below.
//
// FP32: the same, with 2^-24 times the root of the longest sum's length in place of 2^-8, since
// what is stored at those points is a sum whose every step rounds; with the two terms of a norm's
// gradient, which may be all but equal, rounded like that; and with 2^-24 besides, for the result
// itself is FP32. Experts, counts and text are equal to the oracle's.
//
// FP8: the same, with the operands of linear layers given the worst errors of E4M3 besides, in
// tiles and blocks as they are quantised: 2^-4 of a number, or 2^-10 of its scale where that is
// more.
//
// A near tie may route a token elsewhere, and no bound of BF16 or FP8 holds across that. So numbers
// are compared with the experts forced to the oracle's. Then the engine chooses for itself:
// wherever it chooses other than the reference would from its own scores (with the engine's choices
// in every layer before), the reference's margin must be one that the derived error of the scores
// explains: see verify_routes.h. The greedy text is judged likewise, step by step. The balance loss
// counts top scores, too: where the engine counts another, its margin is checked in the same way,
// and numbers are compared with the reference that counts as the engine does.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "study/verify_folder.h"

namespace minke::study {

inline constexpr int kRuns = 8;

// A row of the table: the worst of some quantities of a kind.
struct Verdict {
  std::string quantity;
  int64_t tensors = 1;
  double error = 0, bound = 0;
  std::string worst;  // which of them, where there are several
  std::string note;

  bool passed() const { return error <= bound; }  // NaN does not
};

struct Verification {
  std::vector<Verdict> verdicts;
  bool passed() const;
};

struct VerifyOptions {
  model::Precision precision = model::Precision::kF32;
  // What is done to the engine's model before its weights are packed: tests break it.
  std::function<void(model::Transformer&)> change;
};

// Error: a model that the engine cannot load.
Verification verify(const GoldenFolder& folder, const VerifyOptions& options);

}  // namespace minke::study
