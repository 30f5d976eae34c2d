// What verification in FP32 and in lower precisions share: the table of verdicts, and how results
// are held against golden numbers. See verify.h.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "study/reference_model.h"
#include "study/verify.h"
#include "study/verify_engine.h"

namespace minke::study {

class VerdictTable {
 public:
  // Of a kind, the quantity with the largest share of its bound is kept.
  void add(const std::string& kind, const std::string& name, double error, double bound);
  void add(Verdict verdict) { verdicts_.push_back(std::move(verdict)); }
  Verification finish();

 private:
  std::vector<Verdict> verdicts_;
};

using BoundOf = std::function<double(const std::string& name)>;

std::string route_name(int64_t layer, const char* what);
std::string text_note(int64_t agrees, int64_t of);
// What is computed of a sequence that is decoded.
ReferenceOptions as_decoded(ReferenceOptions options);

// Everything that has the name of a golden number against it.
void compare_numbers(VerdictTable& table, const ReferenceResult& got, const Values& want,
                     const GoldenFolder& folder, const BoundOf& bound);
// Keeps of hidden and latents what decode computes: each sequence's first `lengths` tokens.
void keep_decoded(Values& numbers, const std::vector<int64_t>& lengths, int64_t positions);
// What absorbed decode leaves in its cache and gives to the head.
void compare_decoded(VerdictTable& table, const ReferenceResult& decoded,
                     const GoldenFolder& folder, const BoundOf& bound,
                     const std::vector<int64_t>& lengths);

// A verification in BF16 or FP8.
Verification verify_rounded(const GoldenFolder& folder, Engine& engine, bool fp8);

}  // namespace minke::study
