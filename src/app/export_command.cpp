#include "app/export_command.h"

#include <fmt/format.h>

#include <map>
#include <memory>

#include "app/gguf_vocabulary.h"
#include "app/text_options.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "checkpoint/model_files.h"

namespace minke::app {
namespace {

constexpr const char* kExportFooter =
    R"(The file is of llama.cpp's architecture deepseek2, with the tokenizer in it; an MTP layer becomes
its nextn tensors. Norms and routers stay FP32 in every type. A model that llama.cpp would compute
otherwise, or not read at all, is refused and the reason given.

Examples:
  minke export runs/first --gguf first.gguf
  minke export Moonlight-16B-A3B/ --gguf moonlight.gguf --type q8_0)";

const std::map<std::string, checkpoint::GgufType>& types() {
  using checkpoint::GgufType;
  static const std::map<std::string, GgufType> all = {
      {"bf16", GgufType::kBF16}, {"f16", GgufType::kF16}, {"q8_0", GgufType::kQ8}};
  return all;
}

struct ExportArguments {
  std::string model, gguf, type = "bf16";
  checkpoint::Extra extra = checkpoint::Extra::kRefused;
  infer::WeightsOf weights = infer::WeightsOf::kModel;
};

void run_export(const ExportArguments& arguments) {
  catch_interrupts(kRemovingHalves);
  const fs::path folder = checkpoint::model_folder(arguments.model);
  const checkpoint::HfConfig config = checkpoint::read_config(folder / "config.json");
  const checkpoint::GgufVocabulary vocabulary = gguf_vocabulary(load_tokenizer(folder.string()));
  const checkpoint::CheckpointFolder files(folder, infer::stem_of(arguments.weights, folder));
  LiveLine line;
  checkpoint::export_gguf(arguments.gguf, files, config.model, vocabulary,
                          types().at(arguments.type), arguments.extra,
                          [&](size_t done, size_t all) {
                            stop_if_interrupted();
                            if (!line.due()) return;
                            line.show(fmt::format("exporting: {} of {} tensors", done, all));
                          });
  line.clear();
  fmt::print("{}: {}, {}\n", arguments.gguf,
             format_bytes(static_cast<double>(fs::file_size(arguments.gguf))), arguments.type);
}

}  // namespace

void add_export_command(CLI::App& app) {
  const auto arguments = std::make_shared<ExportArguments>();
  CLI::App* command = app.add_subcommand("export", "Write a model as a file of llama.cpp's");
  command->footer(kExportFooter);
  command->add_option("model", arguments->model, "A model's folder, or a run's")->required();
  command->add_option("--gguf", arguments->gguf, "The file to write")->required();
  command->add_option("--type", arguments->type, "What matrices are stored as")
      ->check(CLI::IsMember(types()))
      ->capture_default_str();
  add_average_option(*command, arguments->weights);
  add_extra_option(*command, arguments->extra, "left out");
  command->callback([arguments] { run_export(*arguments); });
}

}  // namespace minke::app
