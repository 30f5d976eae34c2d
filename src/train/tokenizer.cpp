#include "train/tokenizer.h"

#include "base/error.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/progress.h"
#include "text/bpe_trainer.h"
#include "train/conversation.h"

namespace minke::train {

namespace {

// Documents 0, n, 2n, ... of those that were added, for the least power of two n with which they
// fit.
class EvenSample {
 public:
  explicit EvenSample(uint64_t most_bytes) : most_bytes_(most_bytes) {}

  void add(std::string&& text) {
    if (seen_++ % every_ != 0) return;
    bytes_ += text.size();
    texts_.push_back(std::move(text));
    while (bytes_ > most_bytes_ && texts_.size() > 1) thin();
  }
  const std::vector<std::string>& texts() const { return texts_; }
  int64_t every() const { return every_; }
  uint64_t bytes() const { return bytes_; }

 private:
  void thin() {
    every_ *= 2;
    bytes_ = 0;
    size_t kept = 0;
    for (size_t i = 0; i < texts_.size(); i += 2) {
      bytes_ += texts_[i].size();
      if (i > 0) texts_[kept] = std::move(texts_[i]);
      ++kept;
    }
    texts_.resize(kept);
  }

  uint64_t most_bytes_, bytes_ = 0;
  int64_t seen_ = 0, every_ = 1;
  std::vector<std::string> texts_;
};

EvenSample sample_of(const Corpus& corpus, uint64_t most_bytes) {
  Progress progress("reading text for the tokenizer", bytes_of(corpus.files()),
                    Progress::Unit::kBytes);
  EvenSample sample(most_bytes);
  corpus.read([&](Document&& document, bool held_out) {
    stop_if_interrupted();
    if (!held_out) sample.add(std::move(document.text));
    progress.add(document.file_bytes);
  });
  return sample;
}

}  // namespace

text::Tokenizer learn_tokenizer(const Corpus& corpus, int64_t vocabulary, uint64_t most_bytes) {
  const EvenSample sample = sample_of(corpus, most_bytes);
  if (sample.every() > 1) {
    log::info("tokenizer: learned from one document in {}, {} in all", sample.every(),
              format_bytes(static_cast<double>(sample.bytes())));
  }
  const std::vector<std::string_view> views(sample.texts().begin(), sample.texts().end());
  LiveLine line;
  line.show("learning the tokenizer: counting words");
  text::Tokenizer tokenizer = text::train_bpe(views, vocabulary, [&](double share) {
    stop_if_interrupted();
    if (line.due()) line.show(fmt::format("learning the tokenizer: {:.0f}%", 100 * share));
  });
  line.clear();
  return tokenizer;
}

Encoder encoder_of(const text::Tokenizer& tokenizer) {
  if (!tokenizer.bos() || !tokenizer.eos()) {
    fail("the tokenizer names no bos_token or eos_token in tokenizer_config.json");
  }
  return {[&tokenizer](std::string_view text) { return tokenizer.encode(text); },
          tokenizer.hash(),
          *tokenizer.bos(),
          *tokenizer.eos(),
          [&tokenizer](int32_t id) {
            return tokenizer.is_special(id) ? 0 : std::ssize(tokenizer.bytes_of(id));
          },
          [&tokenizer](const std::vector<text::Message>& messages) {
            return encode_conversation(tokenizer, messages);
          }};
}

}  // namespace minke::train
