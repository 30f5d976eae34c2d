// minke quantize
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_quantize_command(CLI::App& app);

}  // namespace minke::app
