// Conversations to learn from: the tokens of one, and which of them an assistant says.
#pragma once

#include "text/chat.h"
#include "train/data.h"

namespace minke::train {

// A conversation in the tokenizer's chat format, or in DeepSeek-V3's where its configuration names
// none. Learned is what the assistant says and the token that ends it. Error: a template that is
// none of the formats that minke writes, a conversation without an answer, or one whose format
// forgets what was said earlier.
TokenizedDocument encode_conversation(const text::Tokenizer& tokenizer,
                                      const std::vector<text::Message>& messages);

// The same tokenizer, with a chat template that says what encode_conversation() does.
text::Tokenizer with_chat_template(const text::Tokenizer& tokenizer);

}  // namespace minke::train
