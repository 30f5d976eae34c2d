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

// A script ends at the first "</", wherever it stands.
std::string inside_script(const std::string& json) {
  std::string out;
  for (size_t i = 0; i < json.size(); ++i) {
    out += json[i];
    if (json[i] == '<' && i + 1 < json.size() && json[i + 1] == '/') out += '\\';
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
