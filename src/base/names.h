// Enums whose values a user spells. Beside such an enum stands a function that lists them:
//   constexpr auto names(Colour) { return std::array{Name{"red", Colour::kRed}, ...}; }
#pragma once

#include <array>
#include <concepts>
#include <string>
#include <string_view>

#include "base/error.h"

namespace minke {

template <typename E>
struct Name {
  const char* name;
  E value;
};
template <typename E>
Name(const char*, E) -> Name<E>;  // which Clang 16 wants said

template <typename E>
concept Named = std::is_enum_v<E> && requires(E value) { names(value); };

template <Named E>
std::string spelling(E value) {
  for (const auto& named : names(value)) {
    if (named.value == value) return named.name;
  }
  MINKE_CHECK(false, "value {} of an enum has no name", static_cast<int>(value));
}

// The value of that name. Error: there is none; `what` is what was to be named.
template <Named E>
E named(std::string_view name, std::string_view what) {
  std::string all;
  for (const auto& it : names(E{})) {
    if (name == it.name) return it.value;
    all += (all.empty() ? "" : ", ") + std::string(it.name);
  }
  fail("{} {}: expected one of {}", what, name, all);
}

}  // namespace minke
