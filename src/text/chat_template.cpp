#include "text/chat_template.h"

#include <algorithm>
#include <cctype>
#include <utility>
#include <vector>

namespace minke::text {
namespace {

constexpr std::string_view kBlank = " \t\n\r";

bool is_blank(char c) { return kBlank.find(c) != std::string_view::npos; }

std::string literal(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\n' ? "\\n" : std::string(1, c);
  return out + "'";
}

// One past the literal that begins at `at`, or npos.
size_t end_of_literal(std::string_view source, size_t at) {
  for (size_t i = at + 1; i < source.size(); ++i) {
    if (source[i] == '\\')
      ++i;
    else if (source[i] == source[at])
      return i + 1;
  }
  return std::string_view::npos;
}

// An expression without its spaces, its literals in single quotes where they may.
std::string dense(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size();) {
    const bool quote = source[i] == '\'' || source[i] == '"';
    const size_t end = quote ? end_of_literal(source, i) : i + 1;
    if (quote && end != std::string_view::npos) {
      const std::string_view inner = source.substr(i + 1, end - i - 2);
      out += inner.find('\'') == std::string_view::npos ? literal(inner)
                                                        : std::string(source.substr(i, end - i));
      i = end;
    } else {
      if (!is_blank(source[i])) out += source[i];
      ++i;
    }
  }
  return out;
}

// Whether what follows such a condition is said only where there are tools.
bool is_about_tools(std::string_view condition) {
  const auto has = [&](std::string_view text) {
    return condition.find(text) != std::string_view::npos;
  };
  if (condition == "message['role']=='assistant'andmessage['content']isnone") return true;
  return has("tool") && !has("notns.is_tool") && !has("isnotdefined") && !has("notinmessage") &&
         !has("!='tool'");
}

struct Tag {
  char kind = 0;  // {, % or #
  std::string_view body;
  bool trims_before = false, trims_after = false;
  size_t end = 0;
};

std::optional<Tag> tag_at(std::string_view source, size_t at) {
  Tag tag;
  tag.kind = source[at + 1];
  const std::string close = {tag.kind == '{' ? '}' : tag.kind, '}'};
  size_t i = at + 2;
  tag.trims_before = source.substr(i).starts_with('-');
  const size_t begin = i += tag.trims_before ? 1 : 0;
  while (i < source.size() && !source.substr(i).starts_with(close)) {
    const bool quote = tag.kind != '#' && (source[i] == '\'' || source[i] == '"');
    i = quote ? end_of_literal(source, i) : i + 1;
  }
  if (i >= source.size()) return {};
  tag.trims_after = i > begin && source[i - 1] == '-';
  tag.body = source.substr(begin, i - begin - (tag.trims_after ? 1 : 0));
  tag.end = i + 2;
  return tag;
}

// What of the text between two tags is said; `last`: of the template.
std::string_view between(std::string_view text, const Tag& before, const Tag* after, bool first) {
  const size_t line = text.rfind('\n');
  if (after == nullptr && text.ends_with('\n')) text.remove_suffix(1);
  if (after != nullptr && after->trims_before) {
    text = text.substr(0, text.find_last_not_of(kBlank) + 1);
  } else if (after != nullptr && after->kind != '{' && (first || line != std::string_view::npos)) {
    const size_t end = text.find_last_not_of(" \t");
    if (end == std::string_view::npos || end == line) text = text.substr(0, end + 1);
  }
  if (before.trims_after) {
    text.remove_prefix(std::min(text.find_first_not_of(kBlank), text.size()));
  } else if ((before.kind == '%' || before.kind == '#') && text.starts_with('\n')) {
    text.remove_prefix(1);
  }
  return text;
}

class TemplateReader {
 public:
  // False for what is not understood.
  bool block(std::string_view body) {
    body.remove_prefix(std::min(body.find_first_not_of(kBlank), body.size()));
    size_t end = 0;
    while (end < body.size() && std::isalpha(static_cast<unsigned char>(body[end])) != 0) ++end;
    const std::string_view word = body.substr(0, end);
    const std::string rest = dense(body.substr(end));
    if (word == "set") {
      if (!skips()) parts.sets.insert(rest);
      return rest.find('=') != std::string::npos;
    }
    if (word == "generation" || word == "endgeneration" || word == "break") return rest.empty();
    if (word == "if" || word == "for" || word == "macro") {
      open_.push_back(skips() || is_about_tools(rest));
      return true;
    }
    const bool ends = word == "endif" || word == "endfor" || word == "endmacro";
    if ((!ends && word != "elif" && word != "else") || open_.empty()) return false;
    open_.pop_back();
    if (!ends) open_.push_back(skips() || (word == "elif" && is_about_tools(rest)));
    return true;
  }
  void say(std::string what) {
    if (!skips()) parts.says.insert(std::move(what));
  }
  bool whole() const { return open_.empty(); }

  TemplateParts parts;

 private:
  bool skips() const { return !open_.empty() && open_.back(); }

  std::vector<bool> open_;  // blocks, and whether they are passed over
};

}  // namespace

std::optional<TemplateParts> template_parts(std::string_view source) {
  TemplateReader reader;
  Tag before;
  for (size_t at = 0; at <= source.size();) {
    size_t next = source.find('{', at);
    while (next != std::string_view::npos &&
           (next + 1 == source.size() ||
            std::string_view("{%#").find(source[next + 1]) == std::string_view::npos)) {
      next = source.find('{', next + 1);
    }
    const auto tag = next == std::string_view::npos ? std::nullopt : tag_at(source, next);
    if (next != std::string_view::npos && !tag) return {};
    const std::string_view text =
        between(source.substr(at, next == std::string_view::npos ? next : next - at), before,
                tag ? &*tag : nullptr, at == 0);
    if (!text.empty()) reader.say(literal(text));
    if (!tag) break;
    if (tag->kind == '{') reader.say(dense(tag->body));
    if (tag->kind == '%' && !reader.block(tag->body)) return {};
    before = *tag;
    at = tag->end;
  }
  if (!reader.whole()) return {};
  return std::move(reader.parts);
}

}  // namespace minke::text
