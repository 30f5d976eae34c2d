// minke reproduce: what a report claims, measured here.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_reproduce_command(CLI::App& app);

}  // namespace minke::app
