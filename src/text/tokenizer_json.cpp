// tokenizer.json and tokenizer_config.json: the byte-level BPE family of Hugging Face's tokenizers
// library.
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/error.h"
#include "base/file.h"
#include "text/byte_level.h"
#include "text/splitter.h"
#include "text/tokenizer.h"

namespace minke::text {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // files that people read keep an order

constexpr int64_t kMostTokens = 4'000'000;
// What ByteLevel splits by where use_regex is true (GPT-2).
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Reads with errors that name the file and the place in it.
class Reader {
 public:
  explicit Reader(std::string where) : where_(std::move(where)) {}

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: {}", where_, fmt::format(format, std::forward<Args>(args)...));
  }
  Json parse(std::string_view text) const {
    constexpr int kDeepest = 64;
    try {
      return Json::parse(text, [&](int depth, Json::parse_event_t, Json&) {
        if (depth > kDeepest) refuse("nested deeper than {}", kDeepest);
        return true;
      });
    } catch (const nlohmann::json::exception& error) {
      refuse("not valid JSON: {}", error.what());
    }
  }
  const Json& field(const Json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key)) refuse("\"{}\" is missing", key);
    return object[key];
  }
  std::string text(const Json& object, const char* key) const {
    const Json& value = field(object, key);
    if (!value.is_string()) refuse("\"{}\" is not a text", key);
    return value.get<std::string>();
  }
  int64_t number(const Json& value, const char* what) const {
    if (!value.is_number_integer() || value < 0 || value >= kMostTokens) {
      refuse("{} is not a number from 0 to {}", what, kMostTokens - 1);
    }
    return value.get<int64_t>();
  }
  // Absent and null are the same as `expected`; anything else is refused.
  void only(const Json& object, const char* key, const Json& expected) const {
    if (!object.contains(key) || object[key].is_null() || object[key] == expected) return;
    refuse("\"{}\" is {}, which is not supported; expected {}", key,
           object[key].dump().substr(0, 60), expected.dump());
  }

 private:
  std::string where_;
};

std::string bytes_of(const Reader& reader, const std::string& characters) {
  const auto bytes = bytes_of_characters(characters);
  if (!bytes) reader.refuse("token \"{}\" is not written in the byte-level alphabet", characters);
  return *bytes;
}

void read_normalizer(const Reader& reader, const Json& root) {
  if (!root.contains("normalizer") || root["normalizer"].is_null()) return;
  const Json& normalizer = root["normalizer"];
  const bool empty = normalizer.is_object() && normalizer.value("type", Json()) == "Sequence" &&
                     normalizer.value("normalizers", Json()) == Json::array();
  if (!empty) reader.refuse("a normalizer is not supported; expected none");
}

void read_byte_level(const Reader& reader, const Json& part, std::vector<std::string>& patterns) {
  reader.only(part, "add_prefix_space", false);
  // The library's own default is to split.
  const Json use_regex = part.value("use_regex", Json(true));
  if (!use_regex.is_boolean()) reader.refuse("\"use_regex\" is not true or false");
  if (use_regex.get<bool>()) patterns.emplace_back(kGpt2Pattern);
}

std::vector<std::string> read_pre_tokenizer(const Reader& reader, const Json& root) {
  const Json& whole = reader.field(root, "pre_tokenizer");
  std::vector<std::string> patterns;
  bool byte_level = false;
  const auto read_part = [&](const Json& part) {
    const std::string type = reader.text(part, "type");
    if (byte_level) reader.refuse("pre_tokenizer {} after ByteLevel is not supported", type);
    if (type == "ByteLevel") {
      read_byte_level(reader, part, patterns);
      byte_level = true;
    } else if (type == "Split") {
      const std::string behavior = reader.text(part, "behavior");
      if (behavior != "Isolated") reader.refuse("Split behavior {} is not supported", behavior);
      reader.only(part, "invert", false);
      patterns.push_back(reader.text(reader.field(part, "pattern"), "Regex"));
    } else {
      reader.refuse("pre_tokenizer {} is not supported; expected Split and ByteLevel", type);
    }
  };
  if (reader.text(whole, "type") == "Sequence") {
    const Json& parts = reader.field(whole, "pretokenizers");
    if (!parts.is_array()) reader.refuse("\"pretokenizers\" is not a list");
    for (const Json& part : parts) read_part(part);
  } else {
    read_part(whole);
  }
  if (!byte_level) reader.refuse("no ByteLevel pre_tokenizer: not a byte-level tokenizer");
  return patterns;
}

// Vocabulary and merges.
void read_model(const Reader& reader, const Json& root, TokenizerParts& parts) {
  const Json& model = reader.field(root, "model");
  if (reader.text(model, "type") != "BPE") {
    reader.refuse("model {} is not supported; expected BPE", reader.text(model, "type"));
  }
  reader.only(model, "dropout", nullptr);
  reader.only(model, "continuing_subword_prefix", "");
  reader.only(model, "end_of_word_suffix", "");
  reader.only(model, "byte_fallback", false);
  reader.only(model, "ignore_merges", false);
  const Json& vocab = reader.field(model, "vocab");
  if (!vocab.is_object()) reader.refuse("\"vocab\" is not an object");
  std::unordered_map<std::string, int32_t> ids;
  ids.reserve(vocab.size());
  std::unordered_map<int64_t, std::string> control;  // added tokens need not be byte-level
  for (const AddedToken& token : parts.added) control[token.id] = token.content;
  for (const auto& [characters, value] : vocab.items()) {
    const int64_t id = reader.number(value, "an id of \"vocab\"");
    if (static_cast<size_t>(id) >= parts.tokens.size())
      parts.tokens.resize(static_cast<size_t>(id) + 1);
    ids[characters] = static_cast<int32_t>(id);
    if (const auto found = control.find(id);
        found != control.end() && found->second == characters) {
      continue;
    }
    if (!parts.tokens[static_cast<size_t>(id)].empty()) reader.refuse("id {} stands twice", id);
    parts.tokens[static_cast<size_t>(id)] = bytes_of(reader, characters);
  }
  const Json& merges = reader.field(model, "merges");
  if (!merges.is_array() || merges.size() > static_cast<size_t>(kMostTokens)) {
    reader.refuse("\"merges\" is not a list of at most {}", kMostTokens);
  }
  for (const Json& merge : merges) {
    std::string left, right;
    if (merge.is_string()) {
      const auto whole = merge.get<std::string>();
      const size_t space = whole.find(' ');
      left = whole.substr(0, space);
      right = space == std::string::npos ? "" : whole.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    }
    const auto a = ids.find(left), b = ids.find(right);
    if (a == ids.end() || b == ids.end()) {
      reader.refuse("merge {} does not name two tokens", parts.merges.size());
    }
    parts.merges.emplace_back(a->second, b->second);
  }
}

void read_added(const Reader& reader, const Json& root, TokenizerParts& parts) {
  if (!root.contains("added_tokens") || root["added_tokens"].is_null()) return;
  if (!root["added_tokens"].is_array()) reader.refuse("\"added_tokens\" is not a list");
  for (const Json& token : root["added_tokens"]) {
    for (const char* key : {"single_word", "lstrip", "rstrip"}) reader.only(token, key, false);
    const Json special = token.value("special", Json(false));
    parts.added.push_back(
        {static_cast<int32_t>(reader.number(reader.field(token, "id"), "an added token's id")),
         reader.text(token, "content"), special.is_boolean() && special.get<bool>()});
  }
}

void read_config(const Reader& reader, const Json& config, TokenizerParts& parts) {
  if (!config.is_object()) reader.refuse("not an object");
  const auto token = [&](const char* key) -> std::string {
    if (!config.contains(key) || config[key].is_null()) return {};
    const Json& value = config[key];
    return value.is_object() ? reader.text(value, "content") : reader.text(config, key);
  };
  parts.bos = token("bos_token");
  parts.eos = token("eos_token");
  const Json add_bos = config.value("add_bos_token", Json(false));
  parts.add_bos = add_bos.is_boolean() && add_bos.get<bool>();
  if (config.contains("chat_template") && config["chat_template"].is_string()) {
    parts.chat_template = config["chat_template"].get<std::string>();
  }
}

OrderedJson byte_level(bool add_prefix_space, bool trim_offsets, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", trim_offsets},
          {"use_regex", use_regex}};
}

}  // namespace

Tokenizer Tokenizer::parse(std::string_view json, std::string_view config,
                           const std::string& where) {
  TokenizerParts parts;
  const Reader reader(where);
  const Json root = reader.parse(json);
  try {
    read_normalizer(reader, root);
    read_added(reader, root, parts);
    parts.patterns = read_pre_tokenizer(reader, root);
    read_model(reader, root, parts);
    if (root.contains("post_processor") && !root["post_processor"].is_null() &&
        reader.text(root["post_processor"], "type") != "ByteLevel") {
      reader.refuse("post_processor {} is not supported; expected ByteLevel or none",
                    reader.text(root["post_processor"], "type"));
    }
    if (reader.text(reader.field(root, "decoder"), "type") != "ByteLevel") {
      reader.refuse("decoder {} is not supported; expected ByteLevel",
                    reader.text(root["decoder"], "type"));
    }
    if (!config.empty()) {
      const Reader config_reader(where + " (tokenizer_config.json)");
      read_config(config_reader, config_reader.parse(config), parts);
    }
  } catch (const nlohmann::json::exception& error) {
    reader.refuse("{}", error.what());
  }
  try {
    return Tokenizer(std::move(parts));
  } catch (const Error& error) {
    reader.refuse("{}", error.what());
  }
}

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  const std::filesystem::path json = folder / "tokenizer.json",
                              config = folder / "tokenizer_config.json";
  constexpr uint64_t kLargest = uint64_t{256} << 20;
  return parse(read_file(json, kLargest),
               std::filesystem::exists(config) ? read_file(config, kLargest) : std::string(),
               json.string());
}

void Tokenizer::save(const std::filesystem::path& folder) const {
  const TokenizerParts& p = parts();
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
  write_file_atomic(folder / "tokenizer.json", root.dump(1) + "\n");
  write_file_atomic(folder / "tokenizer_config.json", config.dump(1) + "\n");
}

}  // namespace minke::text
