#include "app/watch_command.h"

#include <fmt/format.h>

#include "app/text_options.h"
#include "study/watch.h"

namespace minke::app {
namespace {

constexpr const char* kWatchFooter =
    R"(Curves of all runs over one another; expert loads, router biases, modules and samples of the one that
is chosen in the page. A run may be watched while it trains, later, and before its first step.

Examples:
  minke watch runs/first
  minke watch runs --port 9000
  ssh -L 8090:127.0.0.1:8090 HOST minke watch runs/first      from afar; then open http://127.0.0.1:8090/

Nobody but this machine can ask, unless --host says so; whoever can ask sees the runs' numbers and samples.)";

}  // namespace

void add_watch_command(CLI::App& app) {
  const auto options = std::make_shared<study::WatchOptions>();
  CLI::App* command = app.add_subcommand("watch", "Look at runs in a browser as they go");
  command->footer(kWatchFooter);
  command
      ->add_option("runs", options->runs,
                   "Folders of runs, or of what holds some: runs that begin there are shown, too")
      ->required();
  command->add_option("--host", options->host, "The address to listen on")->capture_default_str();
  command->add_option("--port", options->port, "The port; 0: any that is free")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->callback([options] {
    study::watch(*options, [&](const std::string& url, size_t runs) {
      print_now(fmt::format("watching {} run{} at {} (Ctrl-C ends it)\n", runs,
                            runs == 1 ? "" : "s", url));
    });
  });
}

}  // namespace minke::app
