// Chat formats of the DeepSeek-V3 family, written natively: what their Jinja templates make of
// conversations without tools.
//
// Control tokens come from the format alone. What a message says can never become one; as text it
// is tokenised together with the text that the format puts beside it, as the model was trained.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace minke::text {

struct Message {
  std::string role;  // system, user, assistant
  std::string content;
};

// A format, and what releases of the same model differ in, as their templates say.
struct ChatFormat {
  enum class Kind {
    kDeepSeekV2,   // User: ..\n\nAssistant: ..
    kDeepSeekV3,   // <｜User｜>..<｜Assistant｜>..
    kDeepSeekR1,   // as V3; answers begin with a thought, which history forgets
    kDeepSeekV31,  // as V3; answers begin with a thought or, to say that there is none, an empty
                   // one
    kKimi,         // <|im_user|>user<|im_middle|>..<|im_end|>: Kimi-K2, Moonlight
  };
  Kind kind = Kind::kDeepSeekV3;
  bool joins_systems =
      true;           // several system texts: all of them, parted by a blank line; or the last
  bool asks = false;  // a question ends with the token that begins an answer: V3-0324, R1-0528
  std::string begins_thought;  // what an answer that thinks begins with
  std::string skips_thought;   // and one that does not
  std::string default_system;  // said where a conversation begins without a system text
};

// The format that the tokenizer's chat template describes; nothing where it has none, or one that
// says anything else than one of these does.
std::optional<ChatFormat> chat_format(const Tokenizer& tokenizer);

// Formats by name, for who knows better: v2, v3, ..., kimi (without a default system text).
std::vector<std::string> chat_format_names();
ChatFormat chat_format_named(std::string_view name);

// The control token that ends an answer.
std::string_view end_of_answer(const ChatFormat& format);

struct ChatOptions {
  bool add_generation_prompt = true;  // an answer is to follow
  bool thinking = false;              // of kDeepSeekV31: it begins with a thought
};
// The tokens of a conversation. Error for a role that the format does not have, or a tokenizer
// without its control tokens.
std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const ChatFormat& format,
                                 const std::vector<Message>& messages, const ChatOptions& options);

}  // namespace minke::text
