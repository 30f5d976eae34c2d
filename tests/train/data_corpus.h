// Texts and a tokenizer for tests of data: a byte is a token.
#pragma once

#include <gmock/gmock.h>

#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "train/data.h"

namespace minke::train {

inline constexpr int32_t kBos = 256, kEos = 257;

inline Encoder byte_encoder(const std::string& hash = "bytes") {
  return {[](std::string_view text) {
            std::vector<int32_t> tokens;
            tokens.reserve(text.size());
            for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
            return tokens;
          },
          hash, kBos, kEos, [](int32_t token) { return token < 256 ? 1 : 0; }};
}

inline void write_text(const fs::path& path, std::string_view text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

// The text of tokens, < for a beginning and > for an end.
inline std::string text_of(std::span<const int32_t> tokens) {
  std::string text;
  for (const int32_t token : tokens) {
    text += token == kBos ? '<' : token == kEos ? '>' : static_cast<char>(token);
  }
  return text;
}

// Matches a call that throws Error with all of these in its message.
template <typename... Parts>
auto error_with(const Parts&... parts) {
  return testing::Throws<Error>(testing::Property(
      &Error::what, testing::ResultOf([](const char* message) { return std::string(message); },
                                      testing::AllOf(testing::HasSubstr(parts)...))));
}

}  // namespace minke::train
