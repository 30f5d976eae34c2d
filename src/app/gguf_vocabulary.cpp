#include "app/gguf_vocabulary.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/chat.h"
#include "text/splitter.h"

namespace minke::app {
namespace {

using checkpoint::GgufVocabulary;

// llama.cpp knows ways of splitting by name, and has none that a file describes.
std::string name_of_splitting(const text::TokenizerParts& parts) {
  if (parts.patterns == text::deepseek_v3_patterns()) return "deepseek-v3";
  if (parts.patterns == text::kimi_patterns()) return "kimi-k2";
  fail(
      "the tokenizer splits text in a way that llama.cpp has no name for: expected DeepSeek-V3's "
      "or "
      "Kimi's");
}

// Of tokens that merge by id: the last two parts that a token is made of.
std::vector<std::string> merges_by_id(const text::TokenizerParts& parts) {
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t i = 0; i < parts.tokens.size(); ++i) ids[parts.tokens[i]] = static_cast<int32_t>(i);
  std::vector<std::string> out;
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    const std::string_view token = parts.tokens[id];
    std::vector<std::string_view> pieces;
    for (size_t i = 0; i < token.size(); ++i) pieces.push_back(token.substr(i, 1));
    while (pieces.size() > 2) {
      size_t best = 0;
      auto lowest = static_cast<int32_t>(id);
      for (size_t i = 0; i + 1 < pieces.size(); ++i) {
        const std::string_view both(pieces[i].data(), pieces[i].size() + pieces[i + 1].size());
        const auto found = ids.find(both);
        if (found == ids.end() || found->second >= lowest) continue;
        lowest = found->second;
        best = i;
      }
      if (lowest == static_cast<int32_t>(id)) break;
      pieces[best] = {pieces[best].data(), pieces[best].size() + pieces[best + 1].size()};
      pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    if (pieces.size() != 2) continue;
    out.push_back(text::characters_of_bytes(pieces[0]) + " " +
                  text::characters_of_bytes(pieces[1]));
  }
  return out;
}

}  // namespace

GgufVocabulary gguf_vocabulary(const text::Tokenizer& tokenizer) {
  const text::TokenizerParts& parts = tokenizer.parts();
  if (parts.byte_fallback || !parts.normalizers.empty()) {
    fail("the tokenizer has byte fallback or normalizers, which are not exported");
  }
  GgufVocabulary out;
  out.pre = name_of_splitting(parts);
  out.tokens.resize(static_cast<size_t>(tokenizer.vocabulary()));
  out.kinds.assign(out.tokens.size(), GgufVocabulary::kUnused);
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.tokens[id].empty()) continue;
    out.tokens[id] = text::characters_of_bytes(parts.tokens[id]);
    out.kinds[id] = GgufVocabulary::kNormal;
  }
  for (const text::AddedToken& token : parts.added) {
    const auto id = static_cast<size_t>(token.id);
    out.tokens[id] = token.content;
    out.kinds[id] = token.special ? GgufVocabulary::kControl : GgufVocabulary::kUserDefined;
  }
  if (parts.merges_by_id) out.merges = merges_by_id(parts);
  for (const auto& [left, right] : parts.merges) {
    out.merges.push_back(out.tokens[static_cast<size_t>(left)] + " " +
                         out.tokens[static_cast<size_t>(right)]);
  }
  out.bos = tokenizer.bos().value_or(-1);
  out.eos = tokenizer.eos().value_or(-1);
  out.add_bos = tokenizer.add_bos();
  out.chat_template = tokenizer.chat_template();
  if (const auto format = text::chat_format(tokenizer)) {
    out.end_of_turn = tokenizer.added_id(text::end_of_answer(*format)).value_or(-1);
  }
  return out;
}

}  // namespace minke::app
