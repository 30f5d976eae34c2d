// A model with its tokenizer: text in, text out.
#pragma once

#include <functional>
#include <string_view>

#include "infer/generation.h"
#include "infer/loaded_model.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace minke::infer {

class TextModel {
 public:
  // Throws where a model's user has no use for it: called before its weights are read, and perhaps
  // packed, which may take minutes.
  using Check = std::function<void(const text::Tokenizer&, const std::optional<text::ChatFormat>&)>;
  // Reads folder and tokenizer. prefill_rows, draft: see Generator::Options. chat_format: a name,
  // or empty for what the chat template says. Error, before weights are read, also for a tokenizer
  // that does not belong to the model, and for drafts of a model that has no MTP layer.
  TextModel(const fs::path& folder, model::Precision precision, int64_t prefill_rows, int64_t draft,
            const LoadOptions& how = {}, const std::string& chat_format = {},
            const Check& check = {});

  const text::Tokenizer& tokenizer() const { return tokenizer_; }
  const std::optional<text::ChatFormat>& chat_format() const { return chat_format_; }
  const checkpoint::GenerationConfig& generation_config() const { return loaded_.generation; }

  // The tokens of a text that begins a document: after the beginning-of-sentence token where the
  // tokenizer adds one.
  std::vector<int32_t> encode_document(std::string_view text) const;

  // Called with the text as it comes, in whole characters; special tokens have no text. Bytes that
  // the model makes and that are no UTF-8 are given as they are.
  using OnText = std::function<void(std::string_view)>;
  // Continues `prompt`, see Generator::generate.
  Generation write(std::span<const int32_t> prompt, const Sampling& sampling, int64_t max_tokens,
                   const OnText& on_text, const Generator::ShouldStop& should_stop);

 private:
  LoadedModel load(const fs::path& folder, model::Precision precision, int64_t draft,
                   const LoadOptions& how, const Check& check) const;
  Generator::Options options(int64_t prefill_rows, int64_t draft) const;

  text::Tokenizer tokenizer_;
  std::optional<text::ChatFormat> chat_format_;
  LoadedModel loaded_;
  Generator generator_;
};

}  // namespace minke::infer
