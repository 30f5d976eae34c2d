// Chat of DeepSeek-V3: begin of sentence, system texts, then turns of User and Assistant, each
// answer closed by end of sentence.
//
// Control tokens are put in by id. What a message says goes through Tokenizer::encode and can never
// become one.
#pragma once

#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace minke::text {

struct Message {
  std::string role;  // system, user, assistant
  std::string content;
};

// The tokens that a conversation begins an answer with (add_generation_prompt), or ends with. Error
// for a role that the format does not have, or a tokenizer without its control tokens.
std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const std::vector<Message>& messages,
                                 bool add_generation_prompt);

// Whether tokenizer_config.json says that the model was tuned to this format.
bool has_chat_format(const Tokenizer& tokenizer);

}  // namespace minke::text
