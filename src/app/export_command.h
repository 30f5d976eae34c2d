// minke export
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_export_command(CLI::App& app);

}  // namespace minke::app
