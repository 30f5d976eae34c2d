#include "text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "base/error.h"
#include "text/utf8.h"

namespace minke::text {
namespace {

int options_of(Normalizer::Kind kind) {
  switch (kind) {
    case Normalizer::Kind::kNfc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case Normalizer::Kind::kNfd:
      return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case Normalizer::Kind::kNfkc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    default:
      return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
  }
}

void append_form(std::string& out, std::string_view characters, int options) {
  if (characters.empty()) return;
  utf8proc_uint8_t* made = nullptr;
  const auto size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(characters.data()),
                   std::ssize(characters), &made, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(made, std::free);
  if (size < 0) fail("text cannot be normalised: {}", utf8proc_errmsg(size));
  out.append(reinterpret_cast<const char*>(made), static_cast<size_t>(size));
}

std::string in_form(std::string_view text, int options) {
  std::string out;
  size_t begin = 0, at = 0;
  while (at < text.size()) {
    const size_t size = character_size(text.substr(at));
    if (size == 0) {
      append_form(out, text.substr(begin, at - begin), options);
      out += text[at];
      begin = at + 1;
    }
    at += size == 0 ? 1 : size;
  }
  append_form(out, text.substr(begin), options);
  return out;
}

std::string replaced(std::string_view text, const std::string& from, const std::string& to) {
  std::string out;
  size_t at = 0;
  for (size_t found = text.find(from); found != std::string_view::npos;
       found = text.find(from, at)) {
    out.append(text.substr(at, found - at)).append(to);
    at = found + from.size();
  }
  return out.append(text.substr(at));
}

}  // namespace

std::string normalize(const std::vector<Normalizer>& normalizers, std::string_view text) {
  std::string out(text);
  if (out.empty()) return out;
  for (const Normalizer& step : normalizers) {
    switch (step.kind) {
      case Normalizer::Kind::kPrepend:
        out.insert(0, step.to);
        break;
      case Normalizer::Kind::kReplace:
        out = replaced(out, step.from, step.to);
        break;
      default:
        out = in_form(out, options_of(step.kind));
    }
  }
  return out;
}

}  // namespace minke::text
