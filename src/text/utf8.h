// Characters of UTF-8 in bytes that may be anything.
#pragma once

#include <cstddef>
#include <string_view>

namespace minke::text {

// Bytes of the character that `text` begins with; 0 where it begins with none that is well formed.
size_t character_size(std::string_view text);

}  // namespace minke::text
