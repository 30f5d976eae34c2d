// Chat templates that say what those of the released models say, in Jinja of our own.
#pragma once

namespace minke::text {

inline constexpr const char* kDeepSeekV2Template =
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'User: ' + message['content'] + '\\n\\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
    "{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

inline constexpr const char* kDeepSeekV3Template =
    "{% set ns = namespace(system_prompt='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.system_prompt = ns.system_prompt + "
    "message['content'] %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system_prompt }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}";

inline constexpr const char* kDeepSeekR1Template =
    "{% set ns = namespace(system_prompt='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.system_prompt = ns.system_prompt + "
    "message['content'] %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system_prompt }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}{% elif message['role'] == 'assistant' %}"
    "{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}";

inline constexpr const char* kDeepSeekV31Template =
    "{% set ns = namespace(system_prompt='', is_last_user=false) %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.system_prompt = ns.system_prompt + "
    "message['content'] %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system_prompt }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% set ns.is_last_user = true %}{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{% if ns.is_last_user %}"
    "{{ '<｜Assistant｜>' }}{{ '<think></think>' }}{% endif %}{% set ns.is_last_user = false %}"
    "{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>', 1)[1] %}{% endif %}"
    "{{ content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and ns.is_last_user %}{{ '<｜Assistant｜>' }}"
    "{% if not thinking %}{{ '<think></think>' }}{% else %}{{ '<think>' }}{% endif %}{% endif %}";

inline constexpr const char* kKimiTemplate =
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
