// What the program says about its work: standard error, through spdlog. Results go to standard
// output and are never logged.
//
// spdlog's headers are for log.cpp alone: every file that includes them compiles much of fmt again.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace minke {
namespace log {

enum class Level { kInfo, kWarn };
void write(Level level, std::string_view line);

template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kWarn, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace log

// What a model or a file says, as a terminal may be shown it: control characters other than line
// ends and tabs, which could command it, are written as \x1b is.
std::string printable(std::string_view text);

// Level and pattern ("warning: ...", plain for info).
// Whatever is logged is made printable().
void start_logging();

}  // namespace minke
