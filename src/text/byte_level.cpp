#include "text/byte_level.h"

#include <array>

namespace minke::text {
namespace {

// Characters are below U+0144, so two bytes of UTF-8 at the most.
struct Tables {
  std::array<std::string, 256> character;
  std::array<int, 0x144> byte;

  Tables() {
    byte.fill(-1);
    int next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable =
          (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
      const int point = printable ? b : next++;
      auto& utf8 = character[static_cast<size_t>(b)];
      if (point < 0x80) {
        utf8 = {static_cast<char>(point)};
      } else {
        utf8 = {static_cast<char>(0xc0 | (point >> 6)), static_cast<char>(0x80 | (point & 0x3f))};
      }
      byte[static_cast<size_t>(point)] = b;
    }
  }
};

const Tables& tables() {
  static const Tables instance;
  return instance;
}

}  // namespace

std::string_view character_of_byte(uint8_t byte) { return tables().character[byte]; }

std::string characters_of_bytes(std::string_view bytes) {
  std::string out;
  for (const char b : bytes) out += character_of_byte(static_cast<uint8_t>(b));
  return out;
}

std::optional<std::string> bytes_of_characters(std::string_view characters) {
  std::string out;
  for (size_t i = 0; i < characters.size(); ++i) {
    auto point = static_cast<uint32_t>(static_cast<uint8_t>(characters[i]));
    if (point >= 0x80) {
      if (i + 1 == characters.size() || (point & 0xe0) != 0xc0) return std::nullopt;
      const auto low = static_cast<uint32_t>(static_cast<uint8_t>(characters[++i]));
      if ((low & 0xc0) != 0x80) return std::nullopt;
      point = (point & 0x1f) << 6 | (low & 0x3f);
    }
    if (point >= tables().byte.size() || tables().byte[point] < 0) return std::nullopt;
    out += static_cast<char>(tables().byte[point]);
  }
  return out;
}

}  // namespace minke::text
