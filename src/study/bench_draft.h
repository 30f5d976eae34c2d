// Speculative decoding by draft width: what can be had, and what is.
//
// A verified row reads experts of its own, and a draft its module, so a width has a ceiling: the
// tokens that a step of it gives, over what the step costs in steps of one row; in bytes, and in
// the time that the parts of a step take alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "infer/loaded_model.h"
#include "infer/sampler.h"

namespace minke::study {

struct VerifiedRows {
  int64_t rows = 0;
  double experts = 0;  // different ones that a MoE layer reads, on average
  double bytes = 0;    // weights and latents that are read
  double seconds = 0;  // the trunk and the head on so many rows of a text
};

struct DraftWidthBench {
  int64_t width = 0;  // infer::Generator::kAutoDraft: as pays
  double bytes = 0;   // that drafting reads
  double seconds = 0;
  double tokens = 0;                              // that a step gave
  std::vector<double> accepted = {};              // by position: the share of drafts that stood
  double ceiling_bytes = 0, ceiling_seconds = 0;  // of the gain; 0 where no width is fixed
  double gain = 0;  // tokens a second over plain decoding's: the median of bursts
};

struct DraftBench {
  std::vector<VerifiedRows> rows;
  std::vector<DraftWidthBench> widths;
};

// Texts of `text` tokens (at least 32) after prompts of `prompt` tokens that are cut from `tokens`.
// The model has an MTP module.
DraftBench bench_draft(infer::LoadedModel& loaded, std::span<const int32_t> tokens, int64_t prompt,
                       int64_t text, const infer::Sampling& sampling);

}  // namespace minke::study
