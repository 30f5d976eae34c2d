#include "app/reproduce_command.h"

#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/interrupt.h"
#include "study/reproduce_fp8.h"

namespace minke::app {
namespace {

constexpr const char* kFooter =
    R"(Single products take seconds; training runs need --data and --out, and go on where they were left when
the same line is given again. Three runs of the same model and seed: BF16, FP8, and BF16 with another order of the data,
whose difference is the noise that the first one is to be seen beside.

Examples:
  minke reproduce fp8
  minke reproduce fp8 --data books/ --out runs/fp8 --size nano --steps 400)";

struct Arguments {
  train::Options options;
  std::string out;
};

void print_products() {
  fmt::print("relative errors of single products\n");
  for (const study::ProductError& p : study::fp8_products()) {
    fmt::print("  {:26} {:40} {:8.4f}%\n", p.what, p.how, 100 * p.error);
  }
}

void run(const Arguments& arguments) {
  if (arguments.options.data.empty() != arguments.out.empty()) {
    fail("training runs need both --data and --out");
  }
  print_products();
  if (arguments.out.empty()) return;
  catch_interrupts();
  const study::Fp8Runs runs = study::reproduce_fp8(arguments.options, arguments.out);
  if (!runs.finished) {
    fmt::print("not all runs are finished; the same line goes on\n");
    return;
  }
  fmt::print(
      "loss over the last half, against BF16 (V3 report: below 0.25%)\n"
      "  FP8                  {:7.4f}%  mean {:+.4f}%\n"
      "  another data order   {:7.4f}%  mean {:+.4f}%\n"
      "{}/fp8.html has the curves\n",
      100 * runs.fp8, 100 * runs.fp8_signed, 100 * runs.floor, 100 * runs.floor_signed,
      arguments.out);
}

}  // namespace

void add_reproduce_command(CLI::App& app) {
  CLI::App* reproduce = app.add_subcommand("reproduce", "Measure here what a report claims");
  reproduce->require_subcommand(1);
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* fp8 = reproduce->add_subcommand(
      "fp8", "FP8 training against BF16, and what its tiles and its accumulation are for");
  fp8->footer(kFooter);
  fp8->add_option("--out", arguments->out, "A folder for the runs");
  train::visit_fields(
      arguments->options, [&](const char* flag, auto& field, train::Scope, const char* help) {
        const std::string name = std::string("--") + flag;
        if (name == "--precision" || name == "--data-seed") return;  // what the runs differ in
        if constexpr (std::is_same_v<std::remove_reference_t<decltype(field)>, bool>) {
          fp8->add_flag(name, field, help);
        } else {
          fp8->add_option(name, field, help)->capture_default_str();
        }
      });
  fp8->callback([arguments] { run(*arguments); });
}

}  // namespace minke::app
