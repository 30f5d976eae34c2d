#include "study/text_forward.h"

#include "base/error.h"
#include "base/progress.h"
#include "model/memory.h"

namespace minke::study {

TextForward::TextForward(const std::string& model_folder, model::Precision precision,
                         std::string_view text, const infer::LoadOptions& load)
    : tokenizer_(text::Tokenizer::load(checkpoint::model_folder(model_folder))),
      loaded_(infer::load_model(model_folder, precision, load)) {
  const model::ModelConfig& config = loaded_.config.model;
  if (tokenizer_.vocabulary() > config.vocab_size) {
    fail("{}: the tokenizer has {} tokens, the model {}", loaded_.folder.string(),
         tokenizer_.vocabulary(), config.vocab_size);
  }
  if (text.empty()) fail("the text is empty");
  if (tokenizer_.add_bos() && tokenizer_.bos()) tokens_.push_back(*tokenizer_.bos());
  const auto ids = tokenizer_.encode(text);
  tokens_.insert(tokens_.end(), ids.begin(), ids.end());
  const auto T = std::ssize(tokens_);
  if (T > config.max_position_embeddings) {
    fail("the text has {} tokens, and the model's max_position_embeddings is {}", T,
         config.max_position_embeddings);
  }
  const model::StepMemory memory = model::step_memory(config, precision, 1, T);
  if (memory.activations + memory.workspace > free_memory_bytes()) {
    fail("{} tokens take {} of memory, and {} are free", T,
         format_bytes(static_cast<double>(memory.activations + memory.workspace)),
         format_bytes(static_cast<double>(free_memory_bytes())));
  }
  arena_ = std::make_unique<Arena>(memory.saved_space());
  scratch_ = std::make_unique<Arena>(memory.scratch_space());
  model::Transformer::Options how;
  how.depths = 0;
  loaded_.model->forward({1, T, T, tokens_, {}, false}, how, saved_, pass());
}

std::string TextForward::text_of(size_t i) const {
  const int32_t id = tokens_[i];
  for (const text::AddedToken& added : tokenizer_.parts().added) {
    if (added.id == id) return added.content;
  }
  return std::string(tokenizer_.bytes_of(id));
}

}  // namespace minke::study
