// minke generate: a model continues a text.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_generate_command(CLI::App& app);

}  // namespace minke::app
