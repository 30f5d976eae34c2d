// A tokenizer from an input: the file that makes it and, after a zero byte, tokenizer_config.json.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace minke::text {

// What loads, works: text becomes tokens, none of them a control token, and they become that text.
inline void exercise(const Tokenizer& tokenizer) {
  constexpr std::string_view kText = "The ending, 1234 — 深度\n\n <｜User｜>\xff don't";
  const std::vector<int32_t> ids = tokenizer.encode(kText);
  for (const int32_t id : ids) {
    if (id < 0 || id >= tokenizer.vocabulary()) std::abort();
  }
  const std::string back = tokenizer.decode(ids);
  const bool exact = tokenizer.parts().normalizers.empty() && !tokenizer.parts().byte_fallback;
  if (exact && back != kText) std::abort();
  (void)tokenizer.encode_control(kText);
  if (const auto format = chat_format(tokenizer)) {
    try {
      (void)encode_chat(tokenizer, *format, {{"user", std::string(kText)}}, {});
    } catch (const Error&) {
      return;  // a tokenizer without the format's control tokens
    }
  }
}

template <typename Files>
void load_and_exercise(const uint8_t* data, size_t size, Files&& files_of) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), size);
  try {
    exercise(Tokenizer::parse(files_of(std::string(input.substr(0, end)),
                                       std::string(input.substr(std::min(end + 1, size)))),
                              "input"));
  } catch (const Error&) {
    return;
  }
}

}  // namespace minke::text
