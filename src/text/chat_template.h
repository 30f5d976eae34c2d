// A chat template, taken apart. Templates are programs (Jinja), and minke runs none: it knows one
// by what it writes and what it remembers.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace minke::text {

// What a template says of conversations without tools: branches about these are left out. Spaces
// outside of literals are, too; text between tags is a literal, as trim_blocks and lstrip_blocks
// leave it (transformers sets both).
struct TemplateParts {
  std::set<std::string> says;  // expressions: bos_token; '<｜User｜>'+message['content']
  std::set<std::string> sets;  // assignments: content=content.split('</think>')[-1]
};

// Nothing where a tag is open, or does more than say, set, choose and repeat.
std::optional<TemplateParts> template_parts(std::string_view source);

}  // namespace minke::text
