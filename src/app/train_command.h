// minke train: a model from text.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_train_command(CLI::App& app);

}  // namespace minke::app
