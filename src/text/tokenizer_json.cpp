// tokenizer.json: the BPE family of Hugging Face's tokenizers library, byte-level or with byte
// fallback.
#include <algorithm>
#include <array>
#include <cctype>
#include <unordered_map>

#include "text/byte_level.h"
#include "text/tokenizer_readers.h"

namespace minke::text {
namespace {

// What ByteLevel splits by where use_regex is true (GPT-2).
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string bytes_of(const Reader& reader, const std::string& characters) {
  const auto bytes = bytes_of_characters(characters);
  if (!bytes) reader.refuse("token \"{}\" is not written in the byte-level alphabet", characters);
  return *bytes;
}

void read_normalizer(const Reader& reader, const Json& step, std::vector<Normalizer>& out) {
  using Kind = Normalizer::Kind;
  const std::string type = reader.text(step, "type");
  if (type == "Sequence") {
    const Json& steps = reader.field(step, "normalizers");
    if (!steps.is_array()) reader.refuse("\"normalizers\" is not a list");
    for (const Json& each : steps) read_normalizer(reader, each, out);
  } else if (type == "Prepend") {
    out.push_back({Kind::kPrepend, "", reader.text(step, "prepend")});
  } else if (type == "Replace") {
    out.push_back({Kind::kReplace, reader.text(reader.field(step, "pattern"), "String"),
                   reader.text(step, "content")});
    if (out.back().from.empty()) reader.refuse("a Replace of nothing");
  } else {
    constexpr std::array<std::pair<std::string_view, Kind>, 4> kForms = {
        {{"NFC", Kind::kNfc}, {"NFD", Kind::kNfd}, {"NFKC", Kind::kNfkc}, {"NFKD", Kind::kNfkd}}};
    const auto* const form = std::ranges::find(kForms, type, &decltype(kForms)::value_type::first);
    if (form == kForms.end()) {
      reader.refuse(
          "normalizer {} is not supported; expected NFC, NFD, NFKC, NFKD, Prepend or "
          "Replace",
          type);
    }
    out.push_back({form->second, "", ""});
  }
}

// Any text, as an expression that matches it.
std::string literally(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && std::isalnum(c) == 0) out += '\\';
    out += c;
  }
  return out;
}

// What a sequence of pre_tokenizers comes to.
struct PreTokenizer {
  std::vector<std::string> patterns;
  bool byte_level = false;
};

void read_split(const Reader& reader, const Json& part, PreTokenizer& out) {
  const std::string behavior = reader.text(part, "behavior");
  if (behavior != "Isolated") reader.refuse("Split behavior {} is not supported", behavior);
  reader.only(part, "invert", false);
  const Json& pattern = reader.field(part, "pattern");
  out.patterns.push_back(pattern.contains("String") ? literally(reader.text(pattern, "String"))
                                                    : reader.text(pattern, "Regex"));
}

void read_pre_tokenizer(const Reader& reader, const Json& part, PreTokenizer& out) {
  const std::string type = reader.text(part, "type");
  if (out.byte_level) reader.refuse("pre_tokenizer {} after ByteLevel is not supported", type);
  if (type == "Sequence") {
    const Json& parts = reader.field(part, "pretokenizers");
    if (!parts.is_array()) reader.refuse("\"pretokenizers\" is not a list");
    for (const Json& each : parts) read_pre_tokenizer(reader, each, out);
  } else if (type == "ByteLevel") {
    reader.only(part, "add_prefix_space", false);
    // The library's own default is to split.
    if (reader.flag(part, "use_regex", true)) out.patterns.emplace_back(kGpt2Pattern);
    out.byte_level = true;
  } else if (type == "Split") {
    read_split(reader, part, out);
  } else if (type == "Digits") {
    out.patterns.emplace_back(reader.flag(part, "individual_digits", false) ? R"(\p{N})"
                                                                            : R"(\p{N}+)");
  } else {
    reader.refuse("pre_tokenizer {} is not supported; expected Split, Digits and ByteLevel", type);
  }
}

// The decoder of byte fallback: replacements, bytes, all joined, one leading space less.
void read_fallback_decoder(const Reader& reader, const Json& part, TokenizerParts& parts) {
  const std::string type = reader.text(part, "type");
  if (type == "Sequence") {
    const Json& decoders = reader.field(part, "decoders");
    if (!decoders.is_array()) reader.refuse("\"decoders\" is not a list");
    for (const Json& each : decoders) read_fallback_decoder(reader, each, parts);
  } else if (type == "Replace") {
    read_normalizer(reader, part, parts.decoding);
  } else if (type == "Strip") {
    reader.only(part, "content", " ");
    reader.only(part, "start", 1);
    reader.only(part, "stop", 0);
    parts.strips_space = true;
  } else if (type != "ByteFallback" && type != "Fuse") {
    reader.refuse("decoder {} is not supported; expected Replace, ByteFallback, Fuse, Strip", type);
  }
}

void read_decoder(const Reader& reader, const Json& root, TokenizerParts& parts) {
  const Json& decoder = reader.field(root, "decoder");
  if (parts.byte_fallback) return read_fallback_decoder(reader, decoder, parts);
  const std::string type = reader.text(decoder, "type");
  if (type != "ByteLevel") {
    reader.refuse("decoder {} is not supported; expected ByteLevel", type);
  }
}

// ByteLevel changes no token. TemplateProcessing may put begin of sentence first.
void read_post_processor(const Reader& reader, const Json& part, TokenizerParts& parts) {
  if (part.is_null()) return;
  const std::string type = reader.text(part, "type");
  if (type == "ByteLevel") return;
  if (type == "Sequence") {
    const Json& processors = reader.field(part, "processors");
    if (!processors.is_array()) reader.refuse("\"processors\" is not a list");
    for (const Json& each : processors) read_post_processor(reader, each, parts);
    return;
  }
  if (type != "TemplateProcessing") reader.refuse("post_processor {} is not supported", type);
  const Json& single = reader.field(part, "single");
  const bool fits = single.is_array() && !single.empty() && single.size() <= 2 &&
                    single.back().is_object() && single.back().contains("Sequence") &&
                    (single.size() == 1 || single[0].contains("SpecialToken"));
  if (!fits) reader.refuse("TemplateProcessing of other than [begin of sentence, text]");
  if (single.size() == 1) return;
  parts.bos = reader.text(single[0]["SpecialToken"], "id");
  parts.add_bos = true;
}

// Vocabulary and merges.
void read_model(const Reader& reader, const Json& root, bool byte_level, TokenizerParts& parts) {
  const Json& model = reader.field(root, "model");
  if (reader.text(model, "type") != "BPE") {
    reader.refuse("model {} is not supported; expected BPE", reader.text(model, "type"));
  }
  reader.only(model, "dropout", nullptr);
  reader.only(model, "continuing_subword_prefix", "");
  reader.only(model, "end_of_word_suffix", "");
  parts.byte_fallback = reader.flag(model, "byte_fallback", false) && !byte_level;
  parts.whole_pieces = reader.flag(model, "ignore_merges", false);
  if (!byte_level && !parts.byte_fallback) {
    reader.refuse("neither a ByteLevel pre_tokenizer nor byte_fallback: some text has no tokens");
  }
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
    parts.tokens[static_cast<size_t>(id)] =
        parts.byte_fallback ? characters : bytes_of(reader, characters);
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
    parts.added.push_back(
        {static_cast<int32_t>(reader.number(reader.field(token, "id"), "an added token's id")),
         added_content(reader, token), reader.flag(token, "special", false)});
    // Such a token is looked for in normalised text, others in text as it comes.
    const std::string& content = parts.added.back().content;
    if (reader.flag(token, "normalized", false) &&
        normalize(parts.normalizers, content) != content) {
      reader.refuse("added token {} is \"normalized\", which is not supported here", content);
    }
  }
}

}  // namespace

void read_tokenizer_json(std::string_view json, const std::string& where, TokenizerParts& parts) {
  const Reader reader(where);
  const Json root = reader.parse(json);
  const Json normalizer = root.value("normalizer", Json());
  if (!normalizer.is_null()) read_normalizer(reader, normalizer, parts.normalizers);
  read_added(reader, root, parts);
  PreTokenizer pre;
  const Json pre_tokenizer = root.value("pre_tokenizer", Json());
  if (!pre_tokenizer.is_null()) read_pre_tokenizer(reader, pre_tokenizer, pre);
  parts.patterns = pre.patterns;
  read_model(reader, root, pre.byte_level, parts);
  read_decoder(reader, root, parts);
  read_post_processor(reader, root.value("post_processor", Json()), parts);
}

}  // namespace minke::text
