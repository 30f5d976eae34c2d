#include "app/inspect_command.h"

#include <fmt/format.h>

#include <memory>

#include "app/choices.h"
#include "app/inspect_activations.h"
#include "app/inspect_train.h"
#include "app/inspection.h"
#include "app/text_options.h"

namespace minke::app {
namespace {

constexpr const char* kInspectFooter =
    R"(Examples:
  minke inspect runs/first
  minke inspect config.json --json      one object with exact numbers
  minke inspect config.json --train --batch 4 --seq 512      the memory that training it takes
  minke inspect runs/first --activations a.safetensors --text "It is a truth" --select 'layers.*.input')";

struct InspectOptions {
  std::string path;
  model::Precision precision = model::Precision::kBF16;
  bool json = false, train = false;
  TrainShape shape;
  ActivationsRequest activations;
};

void run_inspect(const InspectOptions& options) {
  if (!options.activations.file.empty()) {
    write_activations(options.path, options.activations);
    return;
  }
  const Inspection inspection = inspect(options.path);
  if (options.json) {
    nlohmann::ordered_json out = json_of(inspection);
    if (options.train) out["train_memory"] = train_memory_json(inspection.config, options.shape);
    fmt::print("{}\n", out.dump(2));
    return;
  }
  print(inspection);
  if (options.train) print_train_memory(inspection.config, options.shape);
  if (inspection.files) print_files(inspection);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  const auto options = std::make_shared<InspectOptions>();
  CLI::App* command =
      app.add_subcommand("inspect", "What a model is, and what it costs: a config is enough");
  command->footer(kInspectFooter);
  command->add_option("model", options->path, "A model's folder, a run's, or a config.json")
      ->required();
  CLI::Option* json =
      command->add_flag("--json", options->json, "As one JSON object, with exact numbers");
  CLI::Option* train = command->add_flag("--train", options->train,
                                         "Also the memory of a training step, at each --recompute");
  command->add_option("--batch", options->shape.sequences, "Sequences computed at once")
      ->check(CLI::Range(1, 1 << 20))
      ->needs(train)
      ->capture_default_str();
  command->add_option("--seq", options->shape.positions, "Tokens a sequence")
      ->check(CLI::Range(2, 1 << 20))
      ->needs(train)
      ->capture_default_str();
  ActivationsRequest& wanted = options->activations;
  CLI::Option* activations = command->add_option(
      "--activations", wanted.file, "Write what the model computes on --text here, as safetensors");
  CLI::Option* text = command->add_option("--text", wanted.text, "The text; -: standard input");
  activations->needs(text)->excludes(train)->excludes(json);
  text->needs(activations);
  command
      ->add_option("--select", wanted.select,
                   "Activations whose name fits, such as 'layers.3.*' or '*.router.scores'")
      ->needs(activations)
      ->capture_default_str();
  add_extra_option(*command, wanted.load.extra)->needs(activations);
  add_choice(*command, "--precision", options->precision, "What is computed in, with either");
  command->callback([options] {
    options->shape.precision = options->activations.precision = options->precision;
    run_inspect(*options);
  });
}

}  // namespace minke::app
