#include "app/quantize_command.h"

#include <fmt/format.h>

#include <memory>

#include "app/text_options.h"
#include "base/error.h"
#include "base/progress.h"
#include "checkpoint/model_files.h"
#include "checkpoint/quantize.h"
#include "text/tokenizer.h"

namespace minke::app {
namespace {

constexpr const char* kFooter =
    R"(Weights of linear layers become E4M3 codes with a scale for each 128x128 block, as DeepSeek's own
FP8 files have them. Embedding, head, norms, routers and their biases stay what they are.

--experts int8 makes the experts integers instead, with a scale for each 128 of a row; int4 those
that are chosen, with a scale for each 32 (the shared ones are int8, then). --head int8 makes
integers of the head. Such a model is multiplied in integers; minke alone reads it. What it costs
says `minke eval`, what it buys `minke bench decode`, of both models.

Examples:
  minke quantize runs/first --out models/first-fp8
  minke quantize runs/first --out models/first-int8 --experts int8 --head int8)";

struct Arguments {
  std::string model, out, experts = "fp8", head = "kept";
  checkpoint::Extra extra = checkpoint::Extra::kRefused;
};

void run(const Arguments& arguments) {
  const fs::path folder = checkpoint::model_folder(arguments.model), out = arguments.out;
  if (fs::exists(out) && !fs::is_empty(out)) fail("{}: is not empty", out.string());
  const checkpoint::HfConfig config = checkpoint::read_config(folder / "config.json");
  const checkpoint::CheckpointFolder files(folder);
  uint64_t total = 0;
  for (const auto& [name, file] : files.tensors()) total += file->stored(name).size;
  model::Fp8Blocks how;
  if (arguments.experts != "fp8") how.expert_bits = arguments.experts == "int8" ? 8 : 4;
  if (arguments.head == "int8") how.head_bits = 8;
  checkpoint::QuantizedSizes sizes;
  {
    Progress progress("quantising", total, Progress::Unit::kBytes);
    write_folder_atomic(out, [&](const fs::path& into) {
      sizes = checkpoint::quantize(into, files, config, arguments.extra, how,
                                   [&](uint64_t bytes) { progress.add(bytes); });
      std::vector<std::string> beside = text::tokenizer_file_names();
      beside.emplace_back("generation_config.json");
      for (const std::string& name : beside) {
        if (fs::exists(folder / name)) write_file_atomic(into / name, read_file(folder / name));
      }
    });
  }
  fmt::print("{}: {} of weights, {} before\n", out.string(),
             format_bytes(static_cast<double>(sizes.after)),
             format_bytes(static_cast<double>(sizes.before)));
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("quantize", "Write a model in FP8, or with integers");
  command->footer(kFooter);
  command->add_option("model", arguments->model, "A model's folder, or a run's")->required();
  command->add_option("--out", arguments->out, "A new folder")->required();
  command->add_option("--experts", arguments->experts, "fp8, int8 or int4")
      ->check(CLI::IsMember({"fp8", "int8", "int4"}))
      ->capture_default_str();
  command->add_option("--head", arguments->head, "kept, or int8")
      ->check(CLI::IsMember({"kept", "int8"}))
      ->capture_default_str();
  add_extra_option(*command, arguments->extra, "written as they are");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace minke::app
