#include "app/train_command.h"

#include <fmt/ranges.h>

#include <memory>
#include <set>
#include <sstream>

#include "app/choices.h"
#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "study/report.h"
#include "train/run.h"

namespace minke::app {
namespace {

constexpr const char* kTrainFooter = R"(Examples:
  minke train --data books/ --out runs/first --minutes 10
  minke train --data train.jsonl.zst --valid valid.jsonl.zst --size small --steps 5000 --out runs/second
  minke train --data books/ --out runs/third --config run.toml      flags from a file; those given here win
  minke train --init runs/first --data letters/ --lr 3e-4 --steps 500 --out runs/letters
  minke train --resume runs/first

Ctrl-C saves and leaves; twice leaves at once. What a run wrote is in --out: metrics.jsonl, report.html and checkpoint/, a
Hugging Face folder.)";

struct TrainArguments {
  train::Options options;
  std::string out, resume, config;
  bool no_report = false;
};

// Gives the command what a file says and the line did not. (CLI11 itself reads a file for the whole
// program only, never for one command.)
void read_flags(CLI::App& command, const std::string& path) {
  std::istringstream file(read_file(path));
  for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_config(file)) {
    CLI::Option* option = command.get_option_no_throw("--" + item.name);
    if (option == nullptr || !item.parents.empty() || item.name == "config") {
      fail("{}: no setting is named '{}'; see `minke train --help`", path, item.fullname());
    }
    if (option->count() > 0) continue;
    const bool is_switch = option->get_items_expected_max() == 0;
    if (is_switch && item.inputs != std::vector<std::string>{"true"} &&
        item.inputs != std::vector<std::string>{"false"}) {
      fail("{}: {} = {}, expected true or false", path, item.name, fmt::join(item.inputs, ", "));
    }
    try {
      for (const std::string& value : item.inputs) option->add_result(value);
      option->run_callback();
    } catch (const CLI::ParseError& error) {
      fail("{}: {}", path, error.what());
    }
  }
}

void run_train(const CLI::App& command, const TrainArguments& arguments) {
  catch_interrupts("stopping, and saving what is trained");
  if (arguments.resume.empty() && arguments.out.empty()) {
    fail("--out is missing: where shall the run be kept? (or --resume a run)");
  }
  fs::path out = arguments.out;
  train::RunResult result;
  std::set<std::string> given;
  train::visit_fields(arguments.options, [&](const char* flag, const auto&...) {
    if (command.count(std::string("--") + flag) > 0) given.insert(flag);
  });
  if (arguments.resume.empty()) {
    train::check_given(arguments.options, given);
    result = train::start_run(arguments.options, out);
  } else {
    if (!arguments.out.empty()) fail("--resume continues in its own folder; leave --out away");
    out = arguments.resume;
    train::visit_fields(
        arguments.options, [&](const char* flag, const auto&, train::Scope scope, const auto&...) {
          if (given.contains(flag) && scope == train::Scope::kRun) {
            fail("--{} cannot change in a run that is resumed: it would be another run", flag);
          }
        });
    result = train::resume_run(arguments.options, given, out);
  }
  if (result.finished && !arguments.no_report) study::write_report(out);
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = app.add_subcommand("train", "Train a model on text");
  command->footer(kTrainFooter);
  command->add_option("--out", arguments->out, "A new folder for the run");
  command->add_option("--resume", arguments->resume, "Continue the run in this folder");
  train::visit_fields(arguments->options, [&](const char* flag, auto& field, train::Scope scope,
                                              const char* help, auto...) {
    add_setting(*command, flag, field, help)
        ->group(scope == train::Scope::kFree ? "Looking, saving and stopping (with --resume "
                                               "the run's own, unless given again)"
                                             : "Settings of the run");
  });
  command->add_flag("--no-report", arguments->no_report, "Write no report.html at the end");
  command->add_option("--config", arguments->config,
                      "A file of flags: TOML, a line `batch = 32` for --batch 32; flags given here "
                      "win");
  command->callback([command, arguments] {
    if (!arguments->config.empty()) read_flags(*command, arguments->config);
    run_train(*command, *arguments);
  });
}

}  // namespace minke::app
