// What general compressors need for a text they have not seen, primed with another: the mark that a
// small language model has to beat.
#pragma once

#include <string>
#include <vector>

#include "base/file.h"

namespace minke::study {

struct CompressorResult {
  std::string name;          // "xz -9e", "7z PPMd order 8"
  double bits_per_byte = 0;  // of the held-out text
};

// Runs those of xz and 7z that are installed on `train` then `valid`, and on `train` alone; the
// difference is what `valid` costs. Empty where none is installed. Temporary files live under
// `folder`.
std::vector<CompressorResult> run_compressors(const std::vector<fs::path>& train,
                                              const std::vector<fs::path>& valid,
                                              const fs::path& folder);

}  // namespace minke::study
