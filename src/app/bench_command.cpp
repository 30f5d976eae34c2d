#include "app/bench_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "app/text_options.h"
#include "base/thread_pool.h"
#include "ops/isa.h"
#include "study/bench.h"

namespace minke::app {
namespace {

constexpr const char* kFooter =
    R"(Shapes of products are tokens x outputs x inputs. A share is the speed over a peak measured in the
same moment: the processor's multiply-adds in that format, or reading and writing as many bytes.
Neighbours change both, so look at shares, and repeat.

Examples:
  minke bench kernels
  minke bench kernels --only attention --json)";

void run(const study::BenchOptions& options, bool json) {
  if (!json) {
    fmt::print("{}\n{:24} {:36} {:>7} {:>9} {:8} {:>6}  {}\n", ops::isa_name(), "op", "shape",
               "threads", "speed", "", "share", "of");
  }
  study::bench_kernels(options, [&](const study::BenchResult& r) {
    if (json) {
      const nlohmann::ordered_json line = {
          {"name", r.name},   {"shape", r.shape},  {"threads", r.threads},
          {"value", r.value}, {"unit", r.unit},    {"share", r.share},
          {"peak", r.peak},   {"of", r.peak_name}, {"isa", ops::isa_name()}};
      print_now(line.dump() + "\n");
    } else {
      print_now(fmt::format("{:24} {:36} {:>7} {:>9.1f} {:8} {:>5.0f}%  {:.0f} {}\n", r.name,
                            r.shape, r.threads, r.value, r.unit, 100 * r.share, r.peak,
                            r.peak_name));
    }
  });
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Speed, as shares of what the machine can do");
  command->require_subcommand(1);
  command->footer("`minke bench COMMAND --help` explains a command.");

  struct Arguments {
    study::BenchOptions options;
    bool json = false, quick = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* kernels = command->add_subcommand("kernels", "Every hot op, on one thread and on all");
  kernels->footer(kFooter);
  kernels->add_option("--only", arguments->options.only, "Ops whose name or shape holds this");
  kernels->add_flag("--json", arguments->json, "One JSON object a line");
  kernels->add_flag("--quick", arguments->quick, "One short burst each");
  kernels->callback([arguments] {
    study::BenchOptions options = arguments->options;
    options.threads = {1};
    if (thread_count() > 1) options.threads.push_back(thread_count());
    if (arguments->quick) {
      options.bursts = 1;
      options.burst_seconds = 0;
    }
    run(options, arguments->json);
  });
}

}  // namespace minke::app
