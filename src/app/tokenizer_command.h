// minke tokenizer: learn one, and text to tokens and back.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_tokenizer_command(CLI::App& app);

}  // namespace minke::app
