// The folder of models, tokenizers and numbers that others computed.
#pragma once

#include "base/file.h"

namespace minke {

inline const fs::path kGolden = MINKE_GOLDEN_DIR;

}  // namespace minke
