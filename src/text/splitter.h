// Pre-tokenisation: text is cut into pieces that no token crosses, by regular expressions one after
// the other (PCRE2 with JIT).
//
// A pattern cuts each piece into its matches and what lies between them ("isolated" in
// tokenizer.json). Bytes that are not UTF-8 match nothing and become pieces, so any bytes survive.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace minke::text {

class Splitter {
 public:
  // Error naming the pattern that PCRE2 does not take.
  explicit Splitter(std::vector<std::string> patterns);
  ~Splitter();
  Splitter(Splitter&&) noexcept;
  Splitter& operator=(Splitter&&) noexcept;

  // Calls on_piece for the pieces in order; they are the text, cut. Any thread may call it.
  using OnPiece = std::function<void(std::string_view)>;
  void split(std::string_view text, const OnPiece& on_piece) const;

  const std::vector<std::string>& patterns() const { return patterns_; }

 private:
  struct Compiled;
  void split_from(size_t pattern, std::string_view text, const OnPiece& on_piece) const;

  std::vector<std::string> patterns_;
  std::vector<std::unique_ptr<Compiled>> compiled_;
  bool deepseek_v3_ = false;  // the patterns are its: ASCII is split by hand
};

// The three patterns of DeepSeek-V3's tokenizer.
const std::vector<std::string>& deepseek_v3_patterns();
// Of the tokenizers that come as tiktoken.model (Moonlight, Kimi), whose files do not say.
const std::vector<std::string>& kimi_patterns();

}  // namespace minke::text
