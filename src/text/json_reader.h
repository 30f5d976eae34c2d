// Reading a tokenizer's JSON with errors that name the file and the place in it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/json.h"

namespace minke::text {

using Json = nlohmann::json;

inline constexpr int64_t kMostTokens = 4'000'000;

class Reader {
 public:
  explicit Reader(std::string where) : where_(std::move(where)) {}

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: {}", where_, fmt::format(format, std::forward<Args>(args)...));
  }
  Json parse(std::string_view text) const { return parse_json<Json>(text, where_); }
  const Json& field(const Json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key)) refuse("\"{}\" is missing", key);
    return object[key];
  }
  std::string text(const Json& object, const char* key) const {
    const Json& value = field(object, key);
    if (!value.is_string()) refuse("\"{}\" is not a text", key);
    return value.get<std::string>();
  }
  int64_t number(const Json& value, const char* what) const {
    if (!value.is_number_integer() || value < 0 || value >= kMostTokens) {
      refuse("{} is not a number from 0 to {}", what, kMostTokens - 1);
    }
    return value.get<int64_t>();
  }
  // Absent and null mean `otherwise`.
  bool flag(const Json& object, const char* key, bool otherwise) const {
    if (!object.is_object() || !object.contains(key) || object[key].is_null()) return otherwise;
    if (!object[key].is_boolean()) refuse("\"{}\" is not true or false", key);
    return object[key].get<bool>();
  }
  // Absent and null are the same as `expected`; anything else is refused.
  void only(const Json& object, const char* key, const Json& expected) const {
    if (!object.is_object() || !object.contains(key)) return;
    if (object[key].is_null() || object[key] == expected) return;
    refuse("\"{}\" is {}, which is not supported; expected {}", key,
           object[key].dump().substr(0, 60), expected.dump());
  }

 private:
  std::string where_;
};

}  // namespace minke::text
