// tokenizer_config.json: which tokens begin and end text, and the chat template.
#include "text/tokenizer_readers.h"

namespace minke::text {
namespace {

// A token is written as its content, or as an object that has it.
std::string token_of(const Reader& reader, const Json& config, const char* key) {
  if (!config.contains(key) || config[key].is_null()) return {};
  const Json& value = config[key];
  return value.is_object() ? reader.text(value, "content") : reader.text(config, key);
}

// Some files have several templates: one for conversations, others for tools or retrieval.
std::string chat_template_of(const Reader& reader, const Json& config) {
  const Json value = config.value("chat_template", Json());
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return {};
  if (!value.is_array()) reader.refuse("\"chat_template\" is neither a text nor a list");
  for (const Json& each : value) {
    if (reader.text(each, "name") == "default") return reader.text(each, "template");
  }
  return {};
}

void read_added_decoder(const Reader& reader, const Json& config, TokenizerParts& parts) {
  const Json added = config.value("added_tokens_decoder", Json::object());
  if (!added.is_object()) reader.refuse("\"added_tokens_decoder\" is not an object");
  for (const auto& [key, token] : added.items()) {
    const bool digits =
        !key.empty() && key.size() < 8 && key.find_first_not_of("0123456789") == std::string::npos;
    const int64_t id = digits ? std::stoll(key) : kMostTokens;
    if (id >= kMostTokens) {
      reader.refuse("added token id \"{}\" is not a number from 0 to {}", key, kMostTokens - 1);
    }
    parts.added.push_back({static_cast<int32_t>(id), added_content(reader, token),
                           reader.flag(token, "special", false)});
  }
}

}  // namespace

std::string added_content(const Reader& reader, const Json& token) {
  for (const char* key : {"single_word", "lstrip", "rstrip"}) reader.only(token, key, false);
  return reader.text(token, "content");
}

void read_tokenizer_config(std::string_view json, const std::string& where, bool with_added,
                           TokenizerParts& parts) {
  const Reader reader(where);
  const Json config = reader.parse(json);
  if (!config.is_object()) reader.refuse("not an object");
  const std::string bos = token_of(reader, config, "bos_token");
  if (!bos.empty()) parts.bos = bos;
  parts.eos = token_of(reader, config, "eos_token");
  parts.add_bos = reader.flag(config, "add_bos_token", parts.add_bos);
  parts.chat_template = chat_template_of(reader, config);
  if (with_added) read_added_decoder(reader, config, parts);
}

}  // namespace minke::text
