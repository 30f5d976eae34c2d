#include "text/splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "text/splitter_ascii.h"

namespace minke::text {
namespace {

// What \s is in the tokenizers library (Unicode's White_Space). PCRE2's own also takes U+180E.
constexpr std::string_view kSpaces =
    "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{"
    "3000}";

// A pattern of the tokenizers library in PCRE2's words. \s and \S are spelled out. A script is the
// property Script, where PCRE2 would take Script_Extensions. Error for what would mean something
// else: sets within a class, and their intersections.
std::string in_pcre2(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 's') {
        out += in_class ? std::string(kSpaces) : fmt::format("[{}]", kSpaces);
      } else if (next == 'S' && !in_class) {
        out += fmt::format("[^{}]", kSpaces);
      } else {
        out += {'\\', next};
        const bool script = (next == 'p' || next == 'P') &&
                            pattern.substr(i + 1).starts_with('{') &&
                            pattern.substr(i + 1).find('}') > 3;
        if (script) {
          out += "{sc:";
          ++i;
        }
      }
      continue;
    }
    if (c == '[' && in_class) fail("tokenizer pattern {}: a set within a class", pattern);
    if (in_class && pattern.substr(i).starts_with("&&")) {
      fail("tokenizer pattern {}: an intersection of classes", pattern);
    }
    if (c == '[') {
      in_class = true;
    } else if (c == ']') {
      in_class = false;
    }
    out += c;
  }
  return out;
}

// One a thread; two numbers: where a match begins and ends.
pcre2_match_data* match_data() {
  thread_local const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  return data.get();
}

}  // namespace

struct Splitter::Compiled {
  pcre2_code* code = nullptr;
  Compiled() = default;
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { pcre2_code_free(code); }
};

Splitter::Splitter(std::vector<std::string> patterns)
    : patterns_(std::move(patterns)), deepseek_v3_(patterns_ == deepseek_v3_patterns()) {
  for (const std::string& pattern : patterns_) {
    const std::string spelled = in_pcre2(pattern);
    int error = 0;
    size_t at = 0;
    auto compiled = std::make_unique<Compiled>();
    // The library's $ is the end of any line.
    constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_MULTILINE;
    compiled->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(),
                                   kOptions, &error, &at, nullptr);
    if (compiled->code == nullptr) {
      unsigned char message[256] = {};
      pcre2_get_error_message(error, message, sizeof message);
      fail("tokenizer pattern {}: {} at {}", pattern, reinterpret_cast<const char*>(message), at);
    }
    // Without JIT (a processor or a policy that forbids it) the same matches come slower.
    pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE);
    compiled_.push_back(std::move(compiled));
  }
}

Splitter::~Splitter() = default;
Splitter::Splitter(Splitter&&) noexcept = default;
Splitter& Splitter::operator=(Splitter&&) noexcept = default;

void Splitter::split(std::string_view text, const OnPiece& on_piece) const {
  if (!deepseek_v3_) return split_from(0, text, on_piece);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = next_cut(text, begin);
    const std::string_view part = text.substr(begin, end - begin);
    if (is_ascii(part)) {
      split_ascii(part, on_piece);
    } else {
      split_from(0, part, on_piece);
    }
    begin = end;
  }
}

void Splitter::split_from(size_t pattern, std::string_view text, const OnPiece& on_piece) const {
  if (text.empty()) return;
  if (pattern == compiled_.size()) {
    on_piece(text);
    return;
  }
  const pcre2_code* code = compiled_[pattern]->code;
  pcre2_match_data* data = match_data();
  size_t done = 0;
  for (size_t from = 0; from < text.size();) {
    const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                  from, PCRE2_NOTEMPTY, data, nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) fail("splitting text: PCRE2 error {} (a run of text it cannot handle)", found);
    const size_t* ends = pcre2_get_ovector_pointer(data);
    const size_t begin = ends[0], end = ends[1];
    split_from(pattern + 1, text.substr(done, begin - done), on_piece);
    split_from(pattern + 1, text.substr(begin, end - begin), on_piece);
    done = from = end;
  }
  split_from(pattern + 1, text.substr(done), on_piece);
}

const std::vector<std::string>& deepseek_v3_patterns() {
  static const std::vector<std::string> patterns = {
      R"(\p{N}{1,3})", "[一-龥\u3040-ゟ゠-ヿ]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
      "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|"
      "\\s+"};
  return patterns;
}

const std::vector<std::string>& kimi_patterns() {
  // Classes are written as what they are not, so that Chinese can be taken out of them: cased
  // letters, marks and letters without case, of which no upper (or no lower) case.
  static const std::string kUpper = R"([^\p{Ll}\p{N}\p{P}\p{S}\p{Z}\p{C}\p{Han}])",
                           kLower = R"([^\p{Lu}\p{Lt}\p{N}\p{P}\p{S}\p{Z}\p{C}\p{Han}])",
                           kBefore = R"([^\r\n\p{L}\p{N}]?)",
                           kEnding = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
  static const std::vector<std::string> patterns = {
      R"(\p{Han}+|)" + kBefore + kUpper + "*" + kLower + "+" + kEnding + "|" + kBefore + kUpper +
      "+" + kLower + "*" + kEnding +
      R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
  return patterns;
}

}  // namespace minke::text
