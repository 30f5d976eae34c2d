// minke inspect: what a model is and what it costs, from its config or its folder.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_inspect_command(CLI::App& app);

}  // namespace minke::app
