// Options whose values are an enum's, by name; and a setting of a training run as an option.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "base/names.h"
#include "model/weight.h"

namespace minke::app {

// Of all values of the enum, or of those that are offered.
template <Named E>
CLI::Option* add_choice(CLI::App& command, const std::string& flag, E& field,
                        const std::string& help, const std::vector<E>& offered = {}) {
  std::vector<std::string> all;
  for (const auto& it : names(E{})) {
    if (offered.empty() || std::ranges::count(offered, it.value) > 0) all.emplace_back(it.name);
  }
  return command
      .add_option_function<std::string>(
          flag, [&field, flag](const std::string& name) { field = named<E>(name, flag); }, help)
      ->check(CLI::IsMember(all))
      ->default_str(spelling(field));
}

// --precision of a command that computes with a model and trains none.
inline CLI::Option* add_precision(CLI::App& command, model::Precision& field) {
  using enum model::Precision;
  return add_choice(command, "--precision", field, "What is computed in", {kF32, kBF16});
}

template <typename Field>
CLI::Option* add_setting(CLI::App& command, const std::string& flag, Field& field,
                         const std::string& help) {
  const std::string name = "--" + flag;
  if constexpr (std::is_same_v<Field, bool>) {
    return command.add_flag(name, field, help);
  } else if constexpr (Named<Field>) {
    return add_choice(command, name, field, help);
  } else {
    return command.add_option(name, field, help)->capture_default_str();
  }
}

}  // namespace minke::app
