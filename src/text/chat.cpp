#include "text/chat.h"

#include "base/error.h"

namespace minke::text {
namespace {

constexpr const char* kUser = "<｜User｜>";
constexpr const char* kAssistant = "<｜Assistant｜>";

int32_t control(const Tokenizer& tokenizer, const char* content) {
  const auto id = tokenizer.added_id(content);
  if (!id) fail("the tokenizer has no token {}: it cannot chat", content);
  return *id;
}

}  // namespace

std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const std::vector<Message>& messages,
                                 bool add_generation_prompt) {
  if (!tokenizer.bos() || !tokenizer.eos()) fail("the tokenizer has no bos or eos token");
  std::vector<int32_t> ids = {*tokenizer.bos()};
  const auto add = [&](std::string_view text) {
    const auto more = tokenizer.encode(text);
    ids.insert(ids.end(), more.begin(), more.end());
  };
  std::string system;
  for (const Message& message : messages) {
    if (message.role == "system") system += (system.empty() ? "" : "\n\n") + message.content;
  }
  add(system);
  for (const Message& message : messages) {
    if (message.role == "user") {
      ids.push_back(control(tokenizer, kUser));
      add(message.content);
    } else if (message.role == "assistant") {
      ids.push_back(control(tokenizer, kAssistant));
      add(message.content);
      ids.push_back(*tokenizer.eos());
    } else if (message.role != "system") {
      fail("chat role \"{}\": expected system, user or assistant", message.role);
    }
  }
  if (add_generation_prompt) ids.push_back(control(tokenizer, kAssistant));
  return ids;
}

bool has_chat_format(const Tokenizer& tokenizer) {
  return tokenizer.chat_template().find(kAssistant) != std::string::npos &&
         tokenizer.added_id(kUser) && tokenizer.added_id(kAssistant);
}

}  // namespace minke::text
