#include "train/conversation.h"

#include <algorithm>

#include "base/error.h"

namespace minke::train {
namespace {

// DeepSeek-V3's, without tools.
constexpr std::string_view kTemplate =
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif "
    "%}"
    "{% set ns = namespace(system_prompt='', is_first_sp=true) %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}"
    "{% set ns.is_first_sp = false %}"
    "{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}"
    "{%- endif %}{%- endif %}{%- endfor %}"
    "{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{'<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- endif %}"
    "{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜>'}}{% endif %}";

text::ChatFormat format_of(const text::Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) return {};
  const auto format = text::chat_format(tokenizer);
  if (!format) {
    fail(
        "the tokenizer's chat template is none that minke writes: conversations cannot be read "
        "with it");
  }
  return *format;
}

}  // namespace

TokenizedDocument encode_conversation(const text::Tokenizer& tokenizer,
                                      const std::vector<text::Message>& messages) {
  const text::ChatFormat format = format_of(tokenizer);
  const auto first = [&](size_t count, bool answer_follows) {
    text::ChatOptions how;
    how.add_generation_prompt = answer_follows;
    return text::encode_chat(tokenizer, format,
                             {messages.begin(), messages.begin() + static_cast<ptrdiff_t>(count)},
                             how);
  };
  TokenizedDocument out;
  out.tokens = first(messages.size(), false);
  out.learned.assign(out.tokens.size(), 0);
  bool answered = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role != "assistant") continue;
    const std::vector<int32_t> before = first(i, true), after = first(i + 1, false);
    const auto begins = [&](const std::vector<int32_t>& part) {
      return part.size() <= out.tokens.size() &&
             std::ranges::equal(part, std::span(out.tokens).first(part.size()));
    };
    if (!begins(before) || !begins(after) || after.size() <= before.size()) {
      fail("message {}: its chat format does not keep an earlier answer as it was said", i + 1);
    }
    std::fill(out.learned.begin() + static_cast<ptrdiff_t>(before.size()),
              out.learned.begin() + static_cast<ptrdiff_t>(after.size()), uint8_t{1});
    answered = true;
  }
  if (!answered) fail("a conversation without an assistant's message teaches nothing");
  return out;
}

text::Tokenizer with_chat_template(const text::Tokenizer& tokenizer) {
  text::TokenizerParts parts = tokenizer.parts();
  parts.chat_template = std::string(kTemplate);
  return text::Tokenizer(std::move(parts));
}

}  // namespace minke::train
