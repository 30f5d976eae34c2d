// minke eval: how well a model predicts a text.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_eval_command(CLI::App& app);

}  // namespace minke::app
