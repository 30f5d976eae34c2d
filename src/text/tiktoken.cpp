// tiktoken.model, the tokenizer of Moonlight and Kimi.
#include <array>
#include <charconv>
#include <optional>

#include "text/splitter.h"
#include "text/tokenizer_readers.h"

namespace minke::text {
namespace {

constexpr size_t kLongestToken = 1024;
constexpr uint8_t kNone = 0xff;  // no digit of base64

std::optional<std::string> bytes_of_base64(std::string_view text) {
  static const std::array<uint8_t, 256> kValues = [] {
    constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::array<uint8_t, 256> out{};
    out.fill(kNone);
    for (size_t i = 0; i < kDigits.size(); ++i) {
      out[static_cast<uint8_t>(kDigits[i])] = static_cast<uint8_t>(i);
    }
    return out;
  }();
  if (text.size() % 4 != 0) return {};
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  text.remove_suffix(padding);
  std::string out;
  uint32_t bits = 0;
  int held = 0;
  for (const char c : text) {
    const uint8_t value = kValues[static_cast<uint8_t>(c)];
    if (value == kNone) return {};
    bits = bits << 6 | value;
    held += 6;
    if (held < 8) continue;
    held -= 8;
    out += static_cast<char>(bits >> held & 0xff);
  }
  return out;
}

}  // namespace

void read_tiktoken(std::string_view model, const std::string& where, TokenizerParts& parts) {
  const auto refuse = [&](size_t line, std::string_view what) {
    fail("{}: line {}: {}", where, line, what);
  };
  for (size_t line = 1; !model.empty(); ++line) {
    std::string_view text = model.substr(0, model.find('\n'));
    model.remove_prefix(std::min(model.size(), text.size() + 1));
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (text.empty()) continue;
    const size_t space = text.find(' ');
    if (space == std::string_view::npos) refuse(line, "expected a token in base64, a space, an id");
    const auto bytes = bytes_of_base64(text.substr(0, space));
    if (!bytes || bytes->empty() || bytes->size() > kLongestToken) {
      refuse(line, fmt::format("expected a token of 1 to {} bytes in base64", kLongestToken));
    }
    const std::string_view number = text.substr(space + 1);
    int64_t id = -1;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), id);
    if (error != std::errc() || end != number.data() + number.size()) id = -1;
    // Special tokens begin where these end, so none may be left out.
    if (id != std::ssize(parts.tokens)) {
      refuse(line, fmt::format("expected id {}, the one after that of the line before",
                               parts.tokens.size()));
    }
    if (id >= kMostTokens) refuse(line, fmt::format("more than {} tokens", kMostTokens));
    parts.tokens.push_back(*bytes);
  }
  parts.patterns = kimi_patterns();
  parts.merges_by_id = true;
  parts.whole_pieces = true;
}

}  // namespace minke::text
