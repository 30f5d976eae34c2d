// What general compressors need for a text they have not seen, primed with another: the mark that a
// small language model has to beat.
#pragma once

#include <string>
#include <vector>

#include "train/source.h"

namespace minke::study {

struct CompressorResult {
  std::string name;          // "xz -9e", "7z PPMd order 8"
  double bits_per_byte = 0;  // of the held-out text
};

// More text than this would take minutes and gigabytes.
inline constexpr uint64_t kMostCompressed = 256'000'000;

// Runs those of xz and 7z that are installed on the documents of `train` then `valid`, and on those
// of `train` alone; the difference is what `valid` costs. Of .jsonl that is what a model reads of
// it, the text, and of .gz and .zst what is in them. Empty where none is installed. Temporary files
// live under `folder`. Error: the text is larger than most_bytes, or cannot be
// read; Interrupted.
std::vector<CompressorResult> run_compressors(const std::vector<train::SourceFile>& train,
                                              const std::vector<train::SourceFile>& valid,
                                              const std::string& text_field, const fs::path& folder,
                                              uint64_t most_bytes = kMostCompressed);

}  // namespace minke::study
