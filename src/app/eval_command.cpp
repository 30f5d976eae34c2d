#include "app/eval_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/choices.h"
#include "app/text_options.h"
#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "infer/loaded_model.h"
#include "model/memory.h"
#include "study/evaluate_text.h"
#include "study/needle.h"
#include "train/evaluate.h"

namespace minke::app {
namespace {

constexpr const char* kEvalFooter =
    R"(The text is read as one document that a beginning-of-sentence token opens, in windows that
advance by half of their length, so that each token is predicted once with at least half a window
before it. Bits per byte count every byte and do not depend on the tokenizer. Figures compare where
windows are of one length: the first line says which.

--logprobs writes a JSON object a line, in the order of the text: {"position": from 1, "id": token,
"text": what it stands for (U+FFFD where it ends within a character), "logprob": natural logarithm
of its probability}. Of a conversation ("messages" in a .jsonl line) what the assistant says counts, and has lines.

--needle asks instead whether the model finds in a long context what it read there: words from
elsewhere in the text lie at a depth of it (0%: its beginning), and are begun again at the end. Printed
are the share of their further tokens that the model finds likeliest, and their mean log-probability;
beside it, where they were never read. --seq, then, is the longest text, also beyond the model's
context: what `minke train --extend-context` is for is seen before and after.

Examples:
  minke eval runs/first --data held-out.txt
  minke eval runs/first --data held-out.jsonl --logprobs logprobs.jsonl
  minke eval runs/first --data held-out.txt --needle --seq 1024)";

struct EvalArguments {
  model::Precision precision = model::Precision::kBF16;
  std::string model, text_field = "text", logprobs;
  std::vector<std::string> data;
  int64_t window = 0;
  infer::LoadOptions load;
  bool needle = false;
};

// Appears when it is whole.
class LogprobsFile {
 public:
  explicit LogprobsFile(const std::string& path) : file_(path) {}
  void write(int64_t position, int32_t id, std::string_view text, float loss) {
    const nlohmann::ordered_json line = {
        {"position", position}, {"id", id}, {"text", text}, {"logprob", -loss}};
    // A token may end within a character.
    waiting_ += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
    if (waiting_.size() >= kBlock) flush();
  }
  void finish() {
    flush();
    file_.commit();
  }

 private:
  static constexpr size_t kBlock = 1 << 20;
  void flush() {
    file_.write(waiting_);
    waiting_.clear();
  }
  AtomicFile file_;
  std::string waiting_;
};

void print(const train::Evaluation& e, const study::EvalWindow& window, bool conversations) {
  fmt::print("{} tokens, {} bytes{}, windows of {} ({})\n", e.tokens, e.bytes,
             conversations ? " of what the assistant says" : "", window.tokens, window.why);
  fmt::print("{:32} {:>9} {:>11}\n", "", "loss", "perplexity");
  for (size_t k = 0; k < e.depth.size(); ++k) {
    fmt::print("{:32} {:9.4f} {:11.3f}\n",
               k == 0 ? "next token" : fmt::format("MTP depth {}: {} further", k, k),
               e.depth[k].loss, e.depth[k].perplexity());
  }
  fmt::print("bits per byte: {:.4f}\n", e.bits_per_byte);
  if (e.acceptance >= 0) {
    fmt::print("second token accepted: {:.1f}% (MTP depth 1's likeliest is the model's own)\n",
               100 * e.acceptance);
  }
  if (e.loads_known()) {
    fmt::print("experts' load: MaxVio {:.2f} in the worst layer, {} without a token\n",
               train::worst_max_vio(e.routers), train::dead_experts(e.routers));
  }
}

// The longest text and its halves.
std::vector<int64_t> needle_lengths(int64_t longest) {
  if (longest < study::kShortestNeedleText) {
    fail("--needle: a text of {} tokens, expected --seq of {} at least", longest,
         study::kShortestNeedleText);
  }
  constexpr size_t kMost = 4;
  std::vector<int64_t> out;
  for (int64_t n = longest; n >= study::kShortestNeedleText && out.size() < kMost; n /= 2) {
    out.insert(out.begin(), n);
  }
  return out;
}

void run_needle(const infer::LoadedModel& loaded, model::Precision precision,
                std::span<const int32_t> tokens, int64_t longest) {
  constexpr int64_t kTrials = 32;
  constexpr uint64_t kSeed = 1;
  const int64_t context = loaded.config.model.max_position_embeddings;
  const auto lengths = needle_lengths(longest > 0 ? longest : context);
  if (std::ssize(tokens) <= 2 * lengths.back()) {
    fail("--needle: the held-out text has {} tokens, expected twice --seq, {}", tokens.size() - 1,
         2 * lengths.back());
  }
  const auto memory = model::step_memory(loaded.config.model, precision, 1, lengths.back());
  Arena saved(memory.saved_space()), scratch(memory.scratch_space());
  fmt::print(
      "{} tokens from elsewhere at a depth of a text, and again at its end; there, of the {} "
      "behind\n"
      "the first {}: the share found likeliest, mean log-probability (nats). {} texts each.\n",
      study::kNeedleTokens, study::kNeedleTokens - study::kNeedleCue, study::kNeedleCue, kTrials);
  fmt::print("{:>8} {:>14}", "tokens", "never read");
  for (const double depth : study::kNeedleDepths) {
    fmt::print(" {:>14}", fmt::format("at {:.0f}%", 100 * depth));
  }
  fmt::print("\n");
  const auto shown = [](const study::NeedleScore& score) {
    return fmt::format(" {:6.1f}% {:6.2f}", 100 * score.found, score.log_probability);
  };
  for (const int64_t length : lengths) {
    const study::NeedleRow row = study::find_needles(*loaded.model, tokens, length, kTrials, kSeed,
                                                     {precision, saved, scratch});
    std::string line = fmt::format("{:8}", length) + shown(row.absent);
    for (const study::NeedleScore& score : row.at_depth) line += shown(score);
    print_now(line + (length > context ? "  beyond the model's context\n" : "\n"));
  }
}

void run_eval(const EvalArguments& arguments) {
  const model::Precision precision = arguments.precision;
  const text::Tokenizer tokenizer =
      text::Tokenizer::load(checkpoint::model_folder(arguments.model));
  const infer::LoadedModel loaded = infer::load_model(arguments.model, precision, arguments.load);
  const train::HeldOut held_out = study::held_out_text(
      loaded.folder, loaded.config.model, tokenizer, arguments.data, arguments.text_field);
  if (arguments.needle) {
    return run_needle(loaded, precision, held_out.tokens, arguments.window);
  }
  const study::EvalWindow window =
      study::eval_window(loaded.folder, loaded.config.model, arguments.window);
  std::optional<LogprobsFile> logprobs;
  std::function<void(int64_t, int32_t, float)> on_token;
  if (!arguments.logprobs.empty()) {
    catch_interrupts(kRemovingHalves);
    logprobs.emplace(arguments.logprobs);
    on_token = [&](int64_t position, int32_t id, float loss) {
      logprobs->write(position, id, tokenizer.bytes_of(id), loss);
    };
  }
  const train::Evaluation result =
      study::evaluate_text(loaded, precision, tokenizer, held_out, window.tokens, on_token);
  if (logprobs) logprobs->finish();
  print(result, window, held_out.has_conversations());
}

}  // namespace

void add_eval_command(CLI::App& app) {
  const auto arguments = std::make_shared<EvalArguments>();
  CLI::App* command = app.add_subcommand("eval", "How well a model predicts a text");
  command->footer(kEvalFooter);
  command->add_option("model", arguments->model, "A model's folder, or a run's")->required();
  command->add_option("--data", arguments->data, "Text: files, folders, globs or -")->required();
  command->add_option("--text-field", arguments->text_field, "The field of a .jsonl line")
      ->capture_default_str();
  command
      ->add_option(
          "--seq", arguments->window,
          "Tokens of a window (default: the length that a run trained on; of another "
          "folder 4096, or all that the model can read; with --needle: the model's context)")
      ->check(CLI::Range(2, 1 << 20));
  add_precision(*command, arguments->precision);
  add_load_options(*command, arguments->load);
  CLI::Option* needle = command->add_flag("--needle", arguments->needle,
                                          "Whether words that the context holds are found again");
  command->add_option("--logprobs", arguments->logprobs, "Write a line for each token here")
      ->excludes(needle);
  command->callback([arguments] { run_eval(*arguments); });
}

}  // namespace minke::app
