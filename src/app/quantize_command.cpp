#include "app/quantize_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "app/text_options.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "checkpoint/model_files.h"
#include "checkpoint/quantize.h"
#include "study/bench_decode.h"
#include "study/evaluate_text.h"
#include "text/tokenizer.h"

namespace minke::app {
namespace {

constexpr const char* kQuantizeFooter =
    R"(Weights of linear layers become E4M3 codes with a scale for each 128x128 block, as DeepSeek's own
FP8 files have them. Embedding, head, norms, routers and their biases stay what they are.

--experts int8 makes the experts integers instead, with a scale for each 128 of a row; int4 those
that are chosen, with a scale for each 32 (the shared ones are int8, then). --head int8 makes
integers of the head. Such a model is multiplied in integers; minke alone reads it. It may be made
of an FP8 model, too: what becomes no integers stays as it was.

--eval says what it costs and what it buys: how well both models predict a text (as `minke eval`),
and how fast they read prompts and write (as `minke bench decode`: one after the other, so compare
the shares of the processor's BF16 peak and of a read of the same pages, measured in that moment).

Examples:
  minke quantize runs/first --out models/first-fp8
  minke quantize runs/first --out models/first-int8 --experts int8 --head int8 --eval held-out.txt)";

struct QuantizeArguments {
  std::string model, out;
  IntegerOptions integers;
  std::vector<std::string> text;
  int64_t window = 0;
  checkpoint::Extra extra = checkpoint::Extra::kRefused;
  infer::WeightsOf weights = infer::WeightsOf::kModel;
};

// What the models are compared on, read before anything is written.
struct EvalText {
  text::Tokenizer tokenizer;
  train::HeldOut held_out;
  study::EvalWindow window;
  EvalText(const QuantizeArguments& arguments, const fs::path& folder,
           const model::ModelConfig& config)
      : tokenizer(text::Tokenizer::load(folder)),
        held_out(study::held_out_text(folder, config, tokenizer, arguments.text, "text")),
        window(study::eval_window(folder, config, arguments.window)) {}
};

struct Measured {
  train::Evaluation text;
  study::DecodeBench speed;
};

Measured measure(infer::LoadedModel& loaded, const EvalText& text) {
  constexpr int64_t kPrompt = 256, kText = 64;
  const int64_t context = loaded.config.model.max_position_embeddings;
  Measured out;
  out.text = study::evaluate_text(loaded, loaded.model->precision(), text.tokenizer, text.held_out,
                                  text.window.tokens, {});
  out.speed = study::bench_decode(loaded, std::clamp(context / 2, int64_t{1}, kPrompt),
                                  std::clamp(context / 4, int64_t{2}, kText), kPrompt);
  return out;
}

// What the model was and what it became, one after the other: both may not fit the memory.
void compare(const QuantizeArguments& arguments, const checkpoint::QuantizedSizes& sizes,
             const EvalText& text) {
  infer::LoadOptions how;
  how.extra = arguments.extra;
  fmt::print("{} tokens, windows of {} ({})\n", text.held_out.tokens.size() - 1, text.window.tokens,
             text.window.why);
  print_now(fmt::format("{:9} {:>10} {:>14} {:>11} {:>18} {:>8} {:>17} {:>8} {:>13}\n", "",
                        "weights", "bits per byte", "perplexity", "prefill, tokens/s", "of peak",
                        "decode, tokens/s", "of read", "read a token"));
  for (const bool before : {true, false}) {
    how.weights = before ? arguments.weights : infer::WeightsOf::kModel;
    infer::LoadedModel loaded =
        infer::load_model(before ? arguments.model : arguments.out, model::Precision::kBF16, how);
    const Measured m = measure(loaded, text);
    print_now(
        fmt::format("{:9} {:>10} {:14.4f} {:11.3f} {:18.1f} {:7.1f}% {:17.1f} {:7.1f}% {:>13}\n",
                    before ? "before" : "quantised",
                    format_bytes(static_cast<double>(before ? sizes.before : sizes.after)),
                    m.text.bits_per_byte, m.text.depth.front().perplexity(), m.speed.prefill_rate,
                    100 * m.speed.prefill_share, m.speed.decode_rate, 100 * m.speed.decode_share,
                    format_bytes(m.speed.token_bytes)));
  }
}

void run_quantize(const QuantizeArguments& arguments) {
  catch_interrupts(kRemovingHalves);
  const fs::path folder = checkpoint::model_folder(arguments.model), out = arguments.out;
  if (fs::exists(out) && !fs::is_empty(out)) fail("{}: is not empty", out.string());
  const checkpoint::HfConfig config = checkpoint::read_config(folder / "config.json");
  const checkpoint::CheckpointFolder files(folder, infer::stem_of(arguments.weights, folder));
  std::optional<EvalText> text;
  if (!arguments.text.empty()) text.emplace(arguments, folder, config.model);
  uint64_t total = 0;
  for (const auto& [name, file] : files.tensors()) total += file->stored(name).size;
  model::Fp8Blocks how;
  apply(arguments.integers, how);
  checkpoint::QuantizedSizes sizes;
  {
    Progress progress("quantising", total, Progress::Unit::kBytes);
    write_folder_atomic(out, [&](const fs::path& into) {
      sizes = checkpoint::quantize(into, files, config, arguments.extra, how, [&](uint64_t bytes) {
        stop_if_interrupted();
        progress.add(bytes);
      });
      std::vector<std::string> beside = text::tokenizer_file_names();
      beside.emplace_back("generation_config.json");
      for (const auto& entry : fs::directory_iterator(folder)) {
        // What config.json's auto_map names: classes that transformers lacks.
        if (entry.path().extension() == ".py") beside.push_back(entry.path().filename());
      }
      for (const std::string& name : beside) {
        if (fs::exists(folder / name)) write_file_atomic(into / name, read_file(folder / name));
      }
    });
  }
  fmt::print("{}: {} of weights, {} before\n", out.string(),
             format_bytes(static_cast<double>(sizes.after)),
             format_bytes(static_cast<double>(sizes.before)));
  if (text) compare(arguments, sizes, *text);
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  const auto arguments = std::make_shared<QuantizeArguments>();
  CLI::App* command = app.add_subcommand("quantize", "Write a model in FP8, or with integers");
  command->footer(kQuantizeFooter);
  command->add_option("model", arguments->model, "A model's folder, or a run's")->required();
  command->add_option("--out", arguments->out, "A new folder")->required();
  add_integer_options(*command, arguments->integers);
  CLI::Option* text =
      command->add_option("--eval", arguments->text,
                          "Text (files, folders, globs or -) that both models are measured on");
  command->add_option("--seq", arguments->window, "Tokens of a window of it; as of `minke eval`")
      ->check(CLI::Range(2, 1 << 20))
      ->needs(text);
  add_average_option(*command, arguments->weights);
  add_extra_option(*command, arguments->extra, "written as they are");
  command->callback([arguments] { run_quantize(*arguments); });
}

}  // namespace minke::app
