// checksums.json of a folder: the XXH3 of every other file, so that a bit that changed on the disk
// is found before it is trained on.
#pragma once

#include "base/file.h"

namespace minke::checkpoint {

// Of all files that lie in the folder now.
void write_checksums(const fs::path& folder);

// Error: a file that is missing or not as it was. A folder without checksums.json, which others
// write, has nothing to verify.
void verify_checksums(const fs::path& folder);

}  // namespace minke::checkpoint
