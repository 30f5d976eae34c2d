#include "infer/text_model.h"

#include "base/error.h"

namespace minke::infer {

TextModel::TextModel(const fs::path& folder, model::Precision precision, int64_t prefill_rows,
                     int64_t draft, const LoadOptions& how, const std::string& chat_format,
                     const Check& check)
    : tokenizer_(text::Tokenizer::load(checkpoint::model_folder(folder))),
      chat_format_(chat_format.empty() ? text::chat_format(tokenizer_)
                                       : text::chat_format_named(chat_format)),
      loaded_(load(folder, precision, draft, how, check)),
      generator_(*loaded_.model, options(prefill_rows, draft)) {}

LoadedModel TextModel::load(const fs::path& folder, model::Precision precision, int64_t draft,
                            const LoadOptions& how, const Check& check) const {
  const fs::path in = checkpoint::model_folder(folder);
  const model::ModelConfig config = checkpoint::read_config(in / "config.json").model;
  if (tokenizer_.vocabulary() > config.vocab_size) {
    fail("{}: its tokenizer has {} tokens, its config.json {}: they do not belong together",
         in.string(), tokenizer_.vocabulary(), config.vocab_size);
  }
  for (const int64_t id : checkpoint::read_generation_config(in).eos_token_id) {
    if (id >= config.vocab_size) {
      fail("{}: generation_config.json: eos_token_id is {}, and vocab_size {}", in.string(), id,
           config.vocab_size);
    }
  }
  Generator::check_draft(draft, config.num_nextn_predict_layers > 0);
  if (check) check(tokenizer_, chat_format_);
  return load_model(folder, precision, how);
}

Generator::Options TextModel::options(int64_t prefill_rows, int64_t draft) const {
  Generator::Options out;
  out.vocabulary = tokenizer_.vocabulary();
  out.holes = tokenizer_.holes();
  for (const auto& ids : {loaded_.config.model.eos_token_id, loaded_.generation.eos_token_id}) {
    for (const int64_t id : ids) out.end_tokens.push_back(static_cast<int32_t>(id));
  }
  if (tokenizer_.eos()) out.end_tokens.push_back(*tokenizer_.eos());
  if (chat_format_) {
    const auto end = tokenizer_.added_id(text::end_of_answer(*chat_format_));
    if (end) out.end_tokens.push_back(*end);
  }
  out.prefill_rows = prefill_rows;
  out.draft = draft;
  return out;
}

std::vector<int32_t> TextModel::encode_document(std::string_view text) const {
  std::vector<int32_t> out;
  if (tokenizer_.add_bos() && tokenizer_.bos()) out.push_back(*tokenizer_.bos());
  const std::vector<int32_t> ids = tokenizer_.encode(text);
  out.insert(out.end(), ids.begin(), ids.end());
  return out;
}

Generation TextModel::write(std::span<const int32_t> prompt, const Sampling& sampling,
                            int64_t max_tokens, const OnText& on_text,
                            const Generator::ShouldStop& should_stop) {
  text::StreamDecoder decoder(tokenizer_);
  const auto on_token = [&](int32_t id) {
    if (tokenizer_.is_special(id)) return;
    const std::string text = decoder.add(id);
    if (!text.empty()) on_text(text);
  };
  Generation out = generator_.generate(prompt, sampling, max_tokens, on_token, should_stop);
  const std::string rest = decoder.finish();
  if (!rest.empty()) on_text(rest);
  return out;
}

}  // namespace minke::infer
