#include "train/held_out.h"

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"

namespace minke::train {
namespace {

// learned: empty for a text.
void append(HeldOut& out, std::span<const int32_t> tokens, std::span<const uint8_t> learned,
            const Encoder& encoder) {
  if (learned.empty()) {
    tokens = tokens.subspan(1, tokens.size() - 2);
    if (!out.learned.empty()) out.learned.resize(out.tokens.size() + tokens.size(), 1);
  } else {
    if (out.tokens.size() == 1 && tokens.front() == encoder.bos) {
      tokens = tokens.subspan(1);
      learned = learned.subspan(1);
    }
    out.learned.resize(out.tokens.size(), 1);
    out.learned.front() = 0;
    out.learned.insert(out.learned.end(), learned.begin(), learned.end());
  }
  out.tokens.insert(out.tokens.end(), tokens.begin(), tokens.end());
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (learned.empty() || learned[i] != 0) out.bytes += encoder.bytes_of(tokens[i]);
  }
}

}  // namespace

HeldOut held_out(const TokenStore& store, std::span<const int64_t> documents,
                 const Encoder& encoder) {
  if (documents.empty()) fail("no text is held out to evaluate on");
  HeldOut out{{encoder.bos}, {}, 0};
  for (const int64_t document : documents) {
    const bool is_conversation = store.is_conversation(document);
    append(out, store.tokens(document),
           is_conversation ? store.learned(document) : std::span<const uint8_t>(), encoder);
  }
  return out;
}

HeldOut held_out(const std::vector<SourceFile>& files, const std::string& text_field,
                 const Encoder& encoder) {
  Progress progress("tokenising held-out text", train::bytes_of(files), Progress::Unit::kBytes);
  HeldOut out{{encoder.bos}, {}, 0};
  std::vector<Document> batch;
  size_t batch_bytes = 0;
  const auto flush = [&] {
    stop_if_interrupted();
    const std::vector<TokenizedDocument> encoded = encode_all(encoder, batch);
    for (size_t i = 0; i < batch.size(); ++i) {
      append(out, encoded[i].tokens, encoded[i].learned, encoder);
      progress.add(batch[i].file_bytes);
    }
    batch.clear();
    batch_bytes = 0;
  };
  PassedOver passed_over;
  for (const SourceFile& file : files) {
    passed_over += read_documents(file, text_field, [&](Document&& document) {
      batch_bytes += document.text.size();
      batch.push_back(std::move(document));
      if (batch_bytes >= kBatchBytes) flush();
    });
  }
  flush();
  warn_of(passed_over);
  return out;
}

}  // namespace minke::train
