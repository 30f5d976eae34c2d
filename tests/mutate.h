// Damage to a file's bytes, as tests of parsers want it.
#pragma once

#include <string>

#include "base/rng.h"

namespace minke {

// One to three edits: a byte, a piece cut out or said twice, a large number, a field's value
// exchanged, the end lost.
inline std::string mutated(std::string text, Rng& rng) {
  for (uint64_t edits = 1 + rng.below(3); edits > 0 && !text.empty(); --edits) {
    const size_t at = rng.below(text.size());
    switch (rng.below(6)) {
      case 0:
        text[at] = static_cast<char>(rng.below(256));
        break;
      case 1:
        text.erase(at, 1 + rng.below(20));
        break;
      case 2:
        text.insert(at, text.substr(rng.below(text.size()), rng.below(40)));
        break;
      case 3:
        text.replace(at, 1, std::to_string(rng.next_u64() >> rng.below(64)));
        break;
      case 4:
        if (const size_t value = text.find(": ", at); value != std::string::npos) {
          constexpr const char* kValues[] = {"null", "-1",  "\"x\"", "[]",  "{}",
                                             "true", "1e9", "0",     "[{}]"};
          text.replace(value + 2, 1, kValues[rng.below(std::size(kValues))]);
        }
        break;
      default:
        if (rng.below(8) == 0) text.resize(at);
    }
  }
  return text;
}

}  // namespace minke
