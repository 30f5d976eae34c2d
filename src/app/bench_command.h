// minke bench: speed, as shares of what the machine can do.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_bench_command(CLI::App& app);

}  // namespace minke::app
