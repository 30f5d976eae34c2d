#include "study/pages.h"

#include "base/error.h"

namespace minke::study {

std::string_view embedded(std::string_view name);  // generated: cmake/embed.cmake

namespace {

void fill(std::string& page, const std::string& mark, std::string_view text) {
  const size_t at = page.find(mark);
  MINKE_CHECK(at != std::string::npos, "the page has no {}", mark);
  page.replace(at, mark.size(), text);
}

// What ends a script, or keeps it from ending, begins with "<", which JSON has in strings alone.
std::string inside_script(const std::string& json) {
  std::string out;
  for (const char c : json) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string page(const std::string& name, const nlohmann::ordered_json& data) {
  std::string out(embedded(name + ".html"));
  fill(out, "@STYLE@", embedded("style.css"));
  fill(out, "@CHARTS@", embedded("charts.js"));
  // The last: data may hold anything.
  fill(out, "@DATA@",
       inside_script(data.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)));
  return out;
}

}  // namespace minke::study
