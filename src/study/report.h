// report.html of a training run: one page that needs nothing else, to look at what a run did.
#pragma once

#include "base/file.h"

namespace minke::study {

// Reads the run in `run` (manifest, metrics, checkpoint's config), measures the compressors that
// are installed on the run's own texts, and writes run/report.html.
void write_report(const fs::path& run);

}  // namespace minke::study
