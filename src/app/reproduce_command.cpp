#include "app/reproduce_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "app/choices.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "study/reproduce_fp8.h"

namespace minke::app {
namespace {

constexpr const char* kReproduceFooter =
    R"(Single products take seconds; training runs need --data and --out, and go on where they were left when
the same line is given again. Three runs of the same model and seed: BF16, FP8, and BF16 with another order of the data,
whose difference is the noise that the first one is to be seen beside. Losses are compared over the last half of the
steps: smoothed by an exponential moving average of 0.9, as in the V3 report's figure, and as they are.

Examples:
  minke reproduce fp8
  minke reproduce fp8 --data books/ --out runs/fp8 --size nano --steps 400
  minke reproduce fp8 --json)";

// What the runs differ in; and what would look at one of them only, or keep more of it.
const std::set<std::string> kNotOffered = {"precision", "data-seed",     "shadow-bf16",
                                           "stop-at",   "sample-prompt", "tensorboard",
                                           "keep-last", "keep-every",    "keep-best"};

struct ReproduceArguments {
  train::Options options;
  std::string out;
  bool json = false;
};

using Json = nlohmann::ordered_json;

void print_products(const std::vector<study::ProductError>& products) {
  fmt::print("relative errors of single products\n");
  for (const study::ProductError& p : products) {
    fmt::print("  {:26} {:40} {:8.4f}%\n", p.what, p.how, 100 * p.error);
  }
}

void print_runs(const study::Fp8Runs& runs, const std::string& out) {
  if (!runs.finished) {
    fmt::print("not all runs are finished; the same line goes on\n");
    return;
  }
  fmt::print(
      "loss over the last half, against BF16 (V3 report: below 0.25%, smoothed as here: EMA {})\n"
      "  {:20} {:>9} {:>9} {:>12} {:>14}\n",
      study::kLossSmoothing, "", "smoothed", "its worst", "each step's", "with its sign");
  const auto row = [](const char* name, const study::LossDifference& d) {
    fmt::print("  {:20} {:8.4f}% {:8.4f}% {:11.4f}% {:+13.4f}%\n", name, 100 * d.smoothed,
               100 * d.worst, 100 * d.raw, 100 * d.bias);
  };
  row("FP8", runs.fp8);
  row("another data order", runs.other_order);
  fmt::print("{}/fp8.html has the curves\n", out);
}

Json json_of(const study::LossDifference& d) {
  return {
      {"smoothed", d.smoothed}, {"worst_smoothed", d.worst}, {"raw", d.raw}, {"signed", d.bias}};
}

Json json_of(const std::vector<study::ProductError>& products) {
  Json out = Json::array();
  for (const study::ProductError& p : products) {
    out.push_back({{"what", p.what}, {"how", p.how}, {"error", p.error}});
  }
  return out;
}

void run_reproduce(const ReproduceArguments& arguments) {
  if (arguments.options.data.empty() != arguments.out.empty()) {
    fail("training runs need both --data and --out");
  }
  const std::vector<study::ProductError> products = study::fp8_products();
  Json json = {{"products", json_of(products)}};
  if (!arguments.json) print_products(products);
  if (!arguments.out.empty()) {
    catch_interrupts();
    const study::Fp8Runs runs = study::reproduce_fp8(arguments.options, arguments.out);
    json["finished"] = runs.finished;
    if (runs.finished) {
      json["smoothing"] = study::kLossSmoothing;
      json["fp8"] = json_of(runs.fp8);
      json["another_data_order"] = json_of(runs.other_order);
    }
    if (!arguments.json) print_runs(runs, arguments.out);
  }
  if (arguments.json) fmt::print("{}\n", json.dump());
}

}  // namespace

void add_reproduce_command(CLI::App& app) {
  CLI::App* reproduce = app.add_subcommand("reproduce", "Measure here what a report claims");
  reproduce->require_subcommand(1);
  reproduce->footer("`minke reproduce COMMAND --help` explains a command.");
  const auto arguments = std::make_shared<ReproduceArguments>();
  CLI::App* fp8 = reproduce->add_subcommand(
      "fp8", "FP8 training against BF16, and what its tiles and its accumulation are for");
  fp8->footer(kReproduceFooter);
  fp8->add_option("--out", arguments->out, "A folder for the runs");
  fp8->add_flag("--json", arguments->json, "A JSON object; differences are shares, not percent");
  train::visit_fields(arguments->options,
                      [&](const char* flag, auto& field, train::Scope, const char* help, auto...) {
                        if (!kNotOffered.contains(flag)) add_setting(*fp8, flag, field, help);
                      });
  fp8->callback([arguments] { run_reproduce(*arguments); });
}

}  // namespace minke::app
