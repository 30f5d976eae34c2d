#include "train/tokenizer.h"

#include "base/error.h"
#include "base/progress.h"
#include "text/bpe_trainer.h"
#include "train/conversation.h"

namespace minke::train {

text::Tokenizer learn_tokenizer(const std::vector<SourceFile>& files, const std::string& text_field,
                                int64_t vocabulary) {
  std::vector<std::string> texts;
  for (const SourceFile& file : files) {
    read_documents(file, text_field,
                   [&](Document&& document) { texts.push_back(std::move(document.text)); });
  }
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  LiveLine line;
  text::Tokenizer tokenizer = text::train_bpe(views, vocabulary, [&](double share) {
    if (line.due()) line.show(fmt::format("learning the tokenizer: {:.0f}%", 100 * share));
  });
  line.clear();
  return tokenizer;
}

Encoder encoder_of(const text::Tokenizer& tokenizer) {
  if (!tokenizer.bos() || !tokenizer.eos()) {
    fail("the tokenizer names no bos_token or eos_token in tokenizer_config.json");
  }
  return {[&tokenizer](std::string_view text) { return tokenizer.encode(text); }, tokenizer.hash(),
          *tokenizer.bos(), *tokenizer.eos(),
          [&tokenizer](const std::vector<text::Message>& messages) {
            return encode_conversation(tokenizer, messages);
          }};
}

}  // namespace minke::train
