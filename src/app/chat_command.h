// minke chat: a conversation with a model, a line at a time.
#pragma once

#include <CLI/CLI.hpp>

namespace minke::app {

void add_chat_command(CLI::App& app);

}  // namespace minke::app
