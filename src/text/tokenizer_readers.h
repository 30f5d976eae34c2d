// The parts of a tokenizer from each file that describes some of them. Errors begin with `where`;
// JSON of another shape than expected may also throw nlohmann's own exceptions.
#pragma once

#include "text/json_reader.h"
#include "text/tokenizer.h"

namespace minke::text {

void read_tokenizer_json(std::string_view json, const std::string& where, TokenizerParts& parts);
// tiktoken.model: a token in base64, a space and its id a line. Splits as Moonlight and Kimi do,
// whose files do not say how.
void read_tiktoken(std::string_view model, const std::string& where, TokenizerParts& parts);
// tokenizer_config.json. with_added: its added_tokens_decoder, too, which tokenizer.json repeats.
void read_tokenizer_config(std::string_view json, const std::string& where, bool with_added,
                           TokenizerParts& parts);

// The content of an added token, which is found as it is written, or refused.
std::string added_content(const Reader& reader, const Json& token);

}  // namespace minke::text
