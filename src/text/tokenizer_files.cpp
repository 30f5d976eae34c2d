// A tokenizer's files: found, read, and written.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "text/byte_level.h"
#include "text/tokenizer_readers.h"

namespace minke::text {
namespace {

using OrderedJson = nlohmann::ordered_json;  // files that people read keep an order

constexpr const char *kJson = "tokenizer.json", *kTiktoken = "tiktoken.model",
                     *kConfig = "tokenizer_config.json", *kChatTemplate = "chat_template.jinja";

OrderedJson byte_level(bool add_prefix_space, bool trim_offsets, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", trim_offsets},
          {"use_regex", use_regex}};
}

// What a tokenizer that was made here, and not loaded, is written as.
TokenizerFiles written(const TokenizerParts& p) {
  MINKE_CHECK(p.normalizers.empty() && !p.merges_by_id && !p.whole_pieces && !p.byte_fallback);
  OrderedJson added = OrderedJson::array();
  for (const AddedToken& token : p.added) {
    added.push_back({{"id", token.id},
                     {"content", token.content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", token.special}});
  }
  OrderedJson pre = OrderedJson::array();
  for (const std::string& pattern : p.patterns) {
    pre.push_back({{"type", "Split"},
                   {"pattern", {{"Regex", pattern}}},
                   {"behavior", "Isolated"},
                   {"invert", false}});
  }
  pre.push_back(byte_level(false, true, false));
  // The library wants added tokens in the vocabulary too where their ids lie within it.
  std::vector<std::string> characters;
  for (const std::string& token : p.tokens) characters.push_back(characters_of_bytes(token));
  for (const AddedToken& token : p.added) {
    if (static_cast<size_t>(token.id) < p.tokens.size()) {
      characters[static_cast<size_t>(token.id)] = token.content;
    }
  }
  // Appended, not inserted: looking for each of 128,000 keys in a list would take seconds.
  OrderedJson::object_t vocab;
  for (size_t i = 0; i < characters.size(); ++i) {
    if (!characters[i].empty()) vocab.emplace_back(characters[i], i);
  }
  OrderedJson merges = OrderedJson::array();
  for (const auto& [left, right] : p.merges) {
    merges.push_back(characters[static_cast<size_t>(left)] + " " +
                     characters[static_cast<size_t>(right)]);
  }
  const OrderedJson root = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", std::move(added)},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", std::move(pre)}}},
      {"post_processor", byte_level(false, false, false)},
      {"decoder", byte_level(false, true, false)},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", std::move(vocab)},
        {"merges", std::move(merges)}}}};
  OrderedJson config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                        {"add_bos_token", p.add_bos},
                        {"add_eos_token", false},
                        {"clean_up_tokenization_spaces", false}};
  if (!p.bos.empty()) config["bos_token"] = p.bos;
  if (!p.eos.empty()) config["eos_token"] = p.eos;
  if (!p.chat_template.empty()) config["chat_template"] = p.chat_template;
  return {root.dump(1) + "\n", "", config.dump(1) + "\n", ""};
}

TokenizerParts read_parts(const TokenizerFiles& files, const std::string& where) {
  TokenizerParts parts;
  const auto path = [&](const char* name) { return where + "/" + name; };
  try {
    if (files.json.empty()) {
      read_tiktoken(files.tiktoken, path(kTiktoken), parts);
    } else {
      read_tokenizer_json(files.json, path(kJson), parts);
    }
    if (!files.config.empty()) {
      read_tokenizer_config(files.config, path(kConfig), files.json.empty(), parts);
    }
  } catch (const nlohmann::json::exception& error) {
    fail("{}: the tokenizer's JSON: {}", where, error.what());
  }
  if (!files.chat_template.empty()) parts.chat_template = files.chat_template;
  return parts;
}

}  // namespace

const std::vector<std::string>& tokenizer_file_names() {
  static const std::vector<std::string> names = {kJson, kTiktoken, kConfig, kChatTemplate};
  return names;
}

bool has_tokenizer(const std::filesystem::path& folder) {
  return fs::exists(folder / kJson) || fs::exists(folder / kTiktoken);
}

Tokenizer Tokenizer::parse(TokenizerFiles files, const std::string& where) {
  TokenizerParts parts = read_parts(files, where);
  try {
    Tokenizer tokenizer(std::move(parts));
    tokenizer.files_ = std::move(files);
    return tokenizer;
  } catch (const Error& error) {
    fail("{}/{}: {}", where, files.json.empty() ? kTiktoken : kJson, error.what());
  }
}

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  constexpr uint64_t kLargest = uint64_t{256} << 20;
  const auto text = [&](const char* name) {
    const fs::path path = folder / name;
    return fs::exists(path) ? read_file(path, kLargest) : std::string();
  };
  if (!has_tokenizer(folder)) {
    fail("{}: neither {} nor {} in it: no tokenizer", folder.string(), kJson, kTiktoken);
  }
  const std::string json = text(kJson);
  return parse({json, json.empty() ? text(kTiktoken) : "", text(kConfig), text(kChatTemplate)},
               folder.string());
}

void Tokenizer::save(const std::filesystem::path& folder) const {
  const bool loaded = !files_.json.empty() || !files_.tiktoken.empty();
  const TokenizerFiles made = loaded ? TokenizerFiles() : written(parts());
  const TokenizerFiles& files = loaded ? files_ : made;
  const auto write = [&](const char* name, const std::string& text) {
    if (!text.empty()) write_file_atomic(folder / name, text);
  };
  write(kJson, files.json);
  write(kTiktoken, files.tiktoken);
  write(kConfig, files.config);
  write(kChatTemplate, files.chat_template);
}

}  // namespace minke::text
