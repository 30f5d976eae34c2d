// What the program says about its work: standard error, through spdlog. Results go to standard
// output and are never logged.
#pragma once

#include <spdlog/spdlog.h>

namespace minke {

namespace log = ::spdlog;

// Level and pattern ("warning: ...", plain for info); `verbose` shows debug lines too.
void start_logging(bool verbose);

}  // namespace minke
