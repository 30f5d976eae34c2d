// minke route: which experts each token of a text goes to.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_route_command(CLI::App& app);

}  // namespace minke::app
