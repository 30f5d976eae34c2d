// Bytes as the printable characters that tokenizer.json writes them with (GPT-2's mapping):
// printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards, in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace minke::text {

// The character of a byte, UTF-8.
std::string_view character_of_byte(uint8_t byte);
std::string characters_of_bytes(std::string_view bytes);
// The bytes that characters stand for; nothing where one stands for none.
std::optional<std::string> bytes_of_characters(std::string_view characters);

}  // namespace minke::text
