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

Example:
  minke quantize runs/first --out models/first-fp8)";

struct Arguments {
  std::string model, out;
  checkpoint::Extra extra = checkpoint::Extra::kRefused;
};

void run(const Arguments& arguments) {
  const fs::path folder = checkpoint::model_folder(arguments.model), out = arguments.out;
  if (fs::exists(out) && !fs::is_empty(out)) fail("{}: is not empty", out.string());
  const checkpoint::HfConfig config = checkpoint::read_config(folder / "config.json");
  const checkpoint::CheckpointFolder files(folder);
  uint64_t total = 0;
  for (const auto& [name, file] : files.tensors()) total += file->stored(name).size;
  checkpoint::QuantizedSizes sizes;
  {
    Progress progress("quantising", total, Progress::Unit::kBytes);
    write_folder_atomic(out, [&](const fs::path& into) {
      sizes = checkpoint::quantize_fp8(into, files, config, arguments.extra,
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
  CLI::App* command = app.add_subcommand("quantize", "Write a model in FP8");
  command->footer(kFooter);
  command->add_option("model", arguments->model, "A model's folder, or a run's")->required();
  command->add_option("--out", arguments->out, "A new folder")->required();
  add_extra_option(*command, arguments->extra, "written as they are");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace minke::app
