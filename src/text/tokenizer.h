// A BPE tokenizer, as tokenizer.json of Hugging Face describes one, or tiktoken.model.
//
// Text of a user is never parsed for control tokens: encode() yields tokens of the vocabulary's
// merges alone. Control text (a chat template's, a golden transcript's) is encode_control()'s.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/normalizer.h"

namespace minke::text {

// The files that a tokenizer is read from; empty where there is none.
struct TokenizerFiles {
  std::string json;           // tokenizer.json
  std::string tiktoken;       // tiktoken.model, where there is no tokenizer.json
  std::string config;         // tokenizer_config.json
  std::string chat_template;  // chat_template.jinja, which newer files have outside their config
};
// Whether a folder has the one or the other file that makes a tokenizer.
bool has_tokenizer(const std::filesystem::path& folder);
// The names of all of them.
const std::vector<std::string>& tokenizer_file_names();

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
};

// What a tokenizer is made of. Ids are places in `tokens`.
struct TokenizerParts {
  std::vector<Normalizer> normalizers;              // what is done to text first
  std::vector<std::string> patterns;                // pre-tokenisation, see Splitter
  std::vector<std::string> tokens;                  // bytes of each id; added tokens are in `added`
  std::vector<std::pair<int32_t, int32_t>> merges;  // in order of rank
  bool merges_by_id = false;  // tiktoken: any two tokens whose bytes are a token's, lowest id first
  bool whole_pieces = false;  // a piece that is a token is that token, whatever merges say
  // Tokens are text: a character that is none is its bytes' tokens, <0x00> to <0xFF>. Otherwise
  // tokens are bytes, and every byte is one.
  bool byte_fallback = false;
  std::vector<Normalizer> decoding;  // of byte_fallback: replacements that make a token its text
  bool strips_space = false;         // of byte_fallback: decoded text loses one leading space
  std::vector<AddedToken> added;
  std::string bos, eos;       // contents of added tokens; may be empty
  bool add_bos = false;       // add_bos_token
  std::string chat_template;  // Jinja, as tokenizer_config.json has it
};

class Tokenizer {
 public:
  // Error: parts that do not fit each other.
  explicit Tokenizer(TokenizerParts parts);
  // Reads tokenizer.json or else tiktoken.model, and what lies beside it. Error for what is
  // damaged, and for any component that would be computed in another way than it says.
  static Tokenizer load(const std::filesystem::path& folder);
  // `where` names the files in errors.
  static Tokenizer parse(TokenizerFiles files, const std::string& where);
  // What was loaded is written as it was, byte for byte.
  void save(const std::filesystem::path& folder) const;
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Any bytes; those that are not UTF-8 become byte tokens. decode() gives all back, save what a
  // normalizer changed. Any thread may call these.
  std::vector<int32_t> encode(std::string_view text) const;
  std::vector<int32_t> encode_control(std::string_view text) const;
  // Control text taken apart: on_text for what lies between its control tokens (never empty),
  // on_token for each of them.
  void split_control(std::string_view text, const std::function<void(std::string_view)>& on_text,
                     const std::function<void(int32_t)>& on_token) const;
  // Error for an id that is no token.
  std::string decode(std::span<const int32_t> ids) const;
  std::string_view bytes_of(int32_t id) const;

  int64_t vocabulary() const;  // ids are below this
  // Ids below vocabulary() that are no tokens, ascending: padding, never to be sampled.
  const std::vector<int32_t>& holes() const;
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
  TokenizerFiles files_;  // as loaded; empty where it was made
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
