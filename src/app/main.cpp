// The program: minke COMMAND. Each command parses, calls and prints in a file of its own.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <string>

#include "app/bench_command.h"
#include "app/chat_command.h"
#include "app/eval_command.h"
#include "app/export_command.h"
#include "app/generate_command.h"
#include "app/inspect_command.h"
#include "app/quantize_command.h"
#include "app/reproduce_command.h"
#include "app/route_command.h"
#include "app/tokenizer_command.h"
#include "app/train_command.h"
#include "app/verify_command.h"
#include "app/watch_command.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "ops/isa.h"

namespace minke::app {
namespace {

// A fault of the user, of a file or of a config, and a wrong command line.
constexpr int kExitFault = 2;
constexpr int kExitInterrupted = 130;

constexpr const char* kExamples = R"(Examples:
  minke train --data books/ --out runs/first           a model from a folder of text
  minke watch runs/first                               its curves in a browser, as they grow
  minke generate runs/first --prompt "It is a truth"   what that model goes on to say

`minke COMMAND --help` explains a command.)";

std::string version_text() {
  return fmt::format("minke {}\ncommit {}\ncompiler {}\ninstruction set {}", version(), commit(),
                     compiler(), ops::isa_name());
}

int report(std::string_view what) {
  fmt::print(stderr, "minke: {}\n", printable(what));
  return kExitFault;
}

// The deepest command on the line: the one whose help answers a wrong flag.
std::string command_named(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? app.get_name() : app.get_name() + " " + command_named(*chosen.front());
}

int run(int argc, char** argv) {
  CLI::App app("DeepSeek-V3 on the CPU: train a model from text, verify it, talk to it.", "minke");
  app.footer(kExamples);
  app.require_subcommand(0, 1);  // none is judged last, so that a wrong flag is named first
  app.fallthrough();             // so that `minke train --threads 2` is `minke --threads 2 train`
  app.set_version_flag("--version", version_text, "Print version, commit, compiler and exit");
  int threads = thread_count();
  app.add_option("--threads", threads, "Threads to work on; the results do not depend on it")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  // Runs when the whole line is parsed and before the command's own callback does the work.
  app.parse_complete_callback([&] {
    start_logging();
    set_thread_count(threads);
  });

  add_train_command(app);
  add_generate_command(app);
  add_chat_command(app);
  add_eval_command(app);
  add_inspect_command(app);
  add_watch_command(app);
  add_route_command(app);
  add_verify_command(app);
  add_reproduce_command(app);
  add_tokenizer_command(app);
  add_quantize_command(app);
  add_export_command(app);
  add_bench_command(app);

  if (argc == 1) {
    fmt::print(stderr, "{}", app.help());
    return kExitFault;
  }
  const std::string first = argv[1];
  const auto is_named = [&first](const CLI::App* command) { return command->get_name() == first; };
  if (!first.starts_with('-') && app.get_subcommands(is_named).empty()) {
    return report(fmt::format("no command is named '{}'; see `minke --help`", first));
  }
  bool asked = false;
  try {
    app.parse(argc, argv);
  } catch (const CLI::RuntimeError& e) {
    return e.get_exit_code();  // a command's own verdict, which it has printed
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() != 0) {
      return report(fmt::format("{}; see `{} --help`", e.what(), command_named(app)));
    }
    app.exit(e);  // --help, --version
    asked = true;
  }
  if (!asked && app.get_subcommands().empty()) {
    return report("a subcommand is required; see `minke --help`");
  }
  // Results go to standard output, and a full disk shows only here.
  if (std::fflush(stdout) != 0 || !std::cout.flush()) fail("standard output: cannot be written");
  return 0;
}

}  // namespace
}  // namespace minke::app

int main(int argc, char** argv) {
  try {
    return minke::app::run(argc, argv);
  } catch (const minke::Interrupted& e) {
    minke::app::report(e.what());
    return minke::app::kExitInterrupted;
  } catch (const std::bad_alloc&) {
    return minke::app::report("out of memory");
  } catch (const std::exception& e) {
    return minke::app::report(e.what());
  }
}
