// JSON from files that nobody vouches for.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

// Compiled once, in json.cpp, and not by every file that has JSON.
extern template class nlohmann::detail::serializer<nlohmann::json>;
extern template class nlohmann::detail::serializer<nlohmann::ordered_json>;

namespace minke {

// Error, beginning with `where`, for what is not JSON, nests deeper than 64, or names a key of an
// object twice (readers differ in which one they take).
template <typename Json>
Json parse_json(std::string_view text, const std::string& where);
extern template nlohmann::json parse_json(std::string_view, const std::string&);
extern template nlohmann::ordered_json parse_json(std::string_view, const std::string&);

// A value as it is shown in an error: at most a few words long.
template <typename Json>
std::string shown(const Json& value) {
  constexpr size_t kLongest = 80;
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kLongest) text.replace(kLongest, std::string::npos, "...");
  return text;
}

// The value of a key that may be absent, or null, as Python writes an absent value: then none.
template <typename Json>
const Json* find(const Json& object, std::string_view key) {
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

}  // namespace minke
