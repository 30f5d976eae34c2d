// minke watch: see study/watch.h.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_watch_command(CLI::App& app);

}  // namespace minke::app
