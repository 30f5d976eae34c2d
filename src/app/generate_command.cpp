#include "app/generate_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "app/text_options.h"
#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "infer/text_model.h"

namespace minke::app {
namespace {

constexpr const char* kGenerateFooter =
    R"(The text goes to standard output as it is written, what it took to standard error. Ctrl-C stops
it. It ends where the model ends it, after --max-tokens, or where the context is full.

Examples:
  minke generate runs/first --prompt "It is a truth"
  minke generate runs/first --prompt "Anne" --temperature 0      always the likeliest token
  minke generate runs/first --prompt "Anne" --seed 7             another text, and each time that one
  head -c 2000 emma.txt | minke generate runs/first --prompt-file -)";

struct GenerateOptions {
  TextOptions text;
  std::string prompt, prompt_file;
};

std::string read_prompt(const GenerateOptions& options) {
  if (options.prompt_file.empty()) return options.prompt;
  return options.prompt_file == "-" ? read_standard_input() : read_file(options.prompt_file);
}

void run_generate(const GenerateOptions& options) {
  const std::string prompt = read_prompt(options);
  infer::TextModel model = load_text_model(options.text);
  const std::vector<int32_t> ids = model.encode_document(prompt);
  catch_interrupts();
  std::string last;
  const auto on_text = [&](std::string_view text) {
    print_now(text);
    last = text;
  };
  const infer::Generation generation =
      model.write(ids, sampling_of(options.text, model.generation_config()),
                  options.text.max_tokens, on_text, interrupted);
  if (!last.ends_with('\n')) print_now("\n");
  fmt::print(stderr, "{}\n", statistics(generation));
}

}  // namespace

void add_generate_command(CLI::App& app) {
  const auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text, as the model would");
  command->footer(kGenerateFooter);
  add_text_options(*command, options->text);
  auto* prompt = command->add_option_group("prompt", "The text to continue");
  prompt->add_option("--prompt,-p", options->prompt, "The text itself");
  prompt->add_option("--prompt-file", options->prompt_file,
                     "The file that holds it; - is standard input");
  prompt->require_option(1);
  command->callback([options] { run_generate(*options); });
}

}  // namespace minke::app
