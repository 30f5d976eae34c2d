// Held-out text as the one document that evaluation reads: a beginning-of-sentence token, then one
// document after the other. Texts are without their first and last token. Conversations are in
// their format, and only what is learned of them counts: what the assistant says, and its end.
#pragma once

#include "train/data.h"

namespace minke::train {

struct HeldOut {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> learned;  // a flag a token: whether it counts; empty: all do
  int64_t bytes = 0;             // of text that those stand for which count
  bool has_conversations() const { return !learned.empty(); }
};

HeldOut held_out(const TokenStore& store, std::span<const int64_t> documents,
                 const Encoder& encoder);
HeldOut held_out(const std::vector<SourceFile>& files, const std::string& text_field,
                 const Encoder& encoder);

}  // namespace minke::train
