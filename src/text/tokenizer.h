// A byte-level BPE tokenizer, as tokenizer.json of Hugging Face describes one.
//
// Text of a user is never parsed for control tokens: encode() yields tokens of the vocabulary's
// merges alone. Control text (a chat template's, a golden transcript's) is encode_control()'s.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace minke::text {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
};

// What a tokenizer is made of. Ids are places in `tokens`.
struct TokenizerParts {
  std::vector<std::string> patterns;                // pre-tokenisation, see Splitter
  std::vector<std::string> tokens;                  // bytes of each id; added tokens are in `added`
  std::vector<std::pair<int32_t, int32_t>> merges;  // in order of rank
  std::vector<AddedToken> added;
  std::string bos, eos;       // contents of added tokens; may be empty
  bool add_bos = false;       // add_bos_token
  std::string chat_template;  // Jinja, as tokenizer_config.json has it
};

class Tokenizer {
 public:
  // Error: parts that do not fit each other.
  explicit Tokenizer(TokenizerParts parts);
  // Reads tokenizer.json and, where there is one, tokenizer_config.json. Error for what is damaged,
  // and for any component that would be computed in another way than it says.
  static Tokenizer load(const std::filesystem::path& folder);
  // From the texts of the two files (config may be empty); `where` names them in errors.
  static Tokenizer parse(std::string_view json, std::string_view config, const std::string& where);
  void save(const std::filesystem::path& folder) const;
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Any bytes; those that are not UTF-8 become byte tokens, so decode() gives them back. Any thread
  // may call these.
  std::vector<int32_t> encode(std::string_view text) const;
  std::vector<int32_t> encode_control(std::string_view text) const;
  // Error for an id that is no token.
  std::string decode(std::span<const int32_t> ids) const;
  std::string_view bytes_of(int32_t id) const;

  int64_t vocabulary() const;  // ids are below this
  std::optional<int32_t> bos() const;
  std::optional<int32_t> eos() const;
  bool add_bos() const;
  const std::string& chat_template() const;
  std::optional<int32_t> added_id(std::string_view content) const;
  bool is_special(int32_t id) const;
  // Of all that decides ids.
  const std::string& hash() const;
  const TokenizerParts& parts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Bytes of tokens as they stream, held back while a character is not whole.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string add(int32_t id);
  std::string finish();  // what was held back, whole or not

 private:
  const Tokenizer& tokenizer_;
  std::string held_;
};

}  // namespace minke::text
