#include "text/splitter_ascii.h"

#include <cstdint>
#include <cstring>

namespace minke::text {

size_t next_cut(std::string_view text, size_t from) {
  while (true) {
    const size_t feed = text.find('\n', from);
    if (feed == std::string_view::npos) return text.size();
    from = feed + 1;
    if (from < text.size() &&
        ascii::class_of(static_cast<unsigned char>(text[from])) == ascii::kLetter) {
      return from;
    }
  }
}

bool is_ascii(std::string_view text) {
  uint64_t all = 0;
  size_t i = 0;
  for (uint64_t word = 0; i + sizeof word <= text.size(); i += sizeof word) {
    std::memcpy(&word, text.data() + i, sizeof word);
    all |= word;
  }
  for (; i < text.size(); ++i) all |= static_cast<unsigned char>(text[i]);
  return (all & 0x8080808080808080U) == 0;
}

}  // namespace minke::text
