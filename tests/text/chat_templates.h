// Chat templates that say what those of the released models say, in Jinja of our own and without
// tools. (V3's own is in the golden tokenizer.)
#pragma once

#include <string>

namespace minke::text {

inline const std::string kDeepSeekV2Template =
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'User: ' + message['content'] + '\\n\\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
    "{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

// System texts joined by a blank line; `flags`: what else of a conversation is kept.
inline std::string deepseek_head(const std::string& flags = "") {
  return "{% set ns = namespace(system_prompt='', is_first_sp=true" + flags +
         ") %}{% for message in messages %}{% if message['role'] == 'system' %}"
         "{% if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}"
         "{% set ns.is_first_sp = false %}{% else %}"
         "{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}"
         "{% endif %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system_prompt }}"
         "{% for message in messages %}";
}

inline const std::string kDeepSeekV3Template =
    deepseek_head() +
    "{% if message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}";

inline const std::string kDeepSeekR1Template =
    deepseek_head() +
    "{% if message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}{% elif message['role'] == 'assistant' %}"
    "{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}";

// V3-0324 and R1-0528: the answer's token ends the question.
inline const std::string kDeepSeekV30324Template =
    deepseek_head(", is_last_user=false") +
    "{% if message['role'] == 'user' %}{% set ns.is_last_user = true %}"
    "{{ '<｜User｜>' + message['content'] + '<｜Assistant｜>' }}"
    "{% elif message['role'] == 'assistant' %}{% set ns.is_last_user = false %}"
    "{% set content = message['content'] %}{{ content + '<｜end▁of▁sentence｜>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt and not ns.is_last_user %}{{ '<｜Assistant｜>' }}"
    "{% endif %}";

inline const std::string kDeepSeekR10528Template =
    deepseek_head(", is_last_user=false") +
    "{% set content = message['content'] %}{% if message['role'] == 'user' %}"
    "{% set ns.is_last_user = true %}{{ '<｜User｜>' + content + '<｜Assistant｜>' }}"
    "{% elif message['role'] == 'assistant' %}{% set ns.is_last_user = false %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not ns.is_last_user %}{{ '<｜Assistant｜>' }}{% endif %}";

inline const std::string kDeepSeekV31Template =
    deepseek_head(", is_last_user=false") +
    "{% if message['role'] == 'user' %}"
    "{% set ns.is_last_user = true %}{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{% if ns.is_last_user %}"
    "{{ '<｜Assistant｜>' }}{{ '<think></think>' }}{% endif %}{% set ns.is_last_user = false %}"
    "{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>', 1)[1] %}{% endif %}"
    "{{ content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and ns.is_last_user %}{{ '<｜Assistant｜>' }}"
    "{% if not thinking %}{{ '<think></think>' }}{% else %}{{ '<think>' }}{% endif %}{% endif %}";

inline const std::string kKimiTemplate =
    "{%- for message in messages -%}\n"
    "  {%- if loop.first and messages[0]['role'] != 'system' -%}\n"
    "    <|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|>\n"
    "  {%- endif -%}\n"
    "  {%- if message['role'] == 'system' -%}\n    <|im_system|>system<|im_middle|>\n"
    "  {%- elif message['role'] == 'user' -%}\n    <|im_user|>user<|im_middle|>\n"
    "  {%- else -%}\n    <|im_assistant|>assistant<|im_middle|>\n  {%- endif -%}\n"
    "  {{ message['content'] }}<|im_end|>\n{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n  <|im_assistant|>assistant<|im_middle|>\n{%- endif -%}\n";

}  // namespace minke::text
