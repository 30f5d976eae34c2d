// Instruction sets that differ from the richest here in their kernels alone.
#pragma once

#include <vector>

#include "ops/isa.h"

namespace minke {

inline std::vector<ops::Isa> poorer_isas() {
  auto sets = ops::available_isas();
  sets.pop_back();
  return sets;
}

}  // namespace minke
