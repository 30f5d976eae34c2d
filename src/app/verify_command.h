// minke verify: the engine against what an oracle computed.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_verify_command(CLI::App& app);

}  // namespace minke::app
