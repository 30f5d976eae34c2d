// What the program says about its work: standard error, through spdlog. Results go to standard
// output and are never logged.
#pragma once

#include <spdlog/spdlog.h>

#include <string>
#include <string_view>

namespace minke {

namespace log = ::spdlog;

// What a model or a file says, as a terminal may be shown it: control characters other than line
// ends and tabs, which could command it, are written as \x1b is.
std::string printable(std::string_view text);

// Level and pattern ("warning: ...", plain for info); `verbose` shows debug lines too.
// Whatever is logged is made printable().
void start_logging(bool verbose);

}  // namespace minke
