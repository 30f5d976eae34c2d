#include "app/text_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "app/choices.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/model_files.h"

namespace minke::app {

void add_text_options(CLI::App& command, TextOptions& options) {
  command.add_option("model", options.model, "A model's folder, or a run's")->required();
  add_precision(command, options.precision);
  add_load_options(command, options.load);
  command.add_option("--max-tokens", options.max_tokens, "Tokens to write at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  // Help says what holds where neither flag nor file does.
  const auto choice = [&](const char* name, auto& value, const char* otherwise, const char* help) {
    command.add_option(name, value, help)
        ->default_str(fmt::format("generation_config.json's, or {}", otherwise));
  };
  choice("--temperature", options.temperature, "0.8",
         "Divides the logits: below 1 plays safe, above 1 dares; 0 takes the likeliest");
  choice("--top-k", options.top_k, "0", "Only the k likeliest tokens; 0: all");
  choice("--top-p", options.top_p, "0.95",
         "Only the likeliest tokens that together reach this probability; 1: all");
  choice("--min-p", options.min_p, "0",
         "Only tokens at least this likely, as a fraction of the likeliest; 0: all");
  command.add_option("--seed", options.seed, "The same seed writes the same text")
      ->capture_default_str();
  command
      .add_option("--prefill", options.prefill_rows,
                  "Tokens of the prompt computed at once; the text does not depend on it")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command
      .add_option("--draft", options.draft,
                  "Tokens that the MTP layer drafts a step, 0 to 8, or auto: as many as pay; the "
                  "text does not depend on it")
      ->check(CLI::IsMember({"auto", "0", "1", "2", "3", "4", "5", "6", "7", "8"}))
      ->capture_default_str();
}

infer::Sampling sampling_of(const TextOptions& options,
                            const checkpoint::GenerationConfig& config) {
  infer::Sampling out{.temperature = 0.8, .top_k = 0, .top_p = 0.95, .min_p = 0, .seed = 0};
  // A file that says one of these leaves the others alone.
  if (config.temperature || config.top_p || config.min_p || config.top_k) out = {};
  out.temperature = options.temperature.value_or(config.temperature.value_or(out.temperature));
  out.top_k = options.top_k.value_or(config.top_k.value_or(out.top_k));
  out.top_p = options.top_p.value_or(config.top_p.value_or(out.top_p));
  out.min_p = options.min_p.value_or(config.min_p.value_or(out.min_p));
  out.seed = options.seed;
  out.check();
  return out;
}

infer::TextModel load_text_model(const TextOptions& options, const infer::TextModel::Check& check) {
  sampling_of(options, {});
  const int64_t draft =
      options.draft == "auto" ? infer::Generator::kAutoDraft : std::stoll(options.draft);
  return {options.model, options.precision, options.prefill_rows,
          draft,         options.load,      options.chat_format,
          check};
}

CLI::Option* add_extra_option(CLI::App& command, checkpoint::Extra& extra,
                              const std::string& fate) {
  return command.add_flag_callback(
      "--allow-extra", [&extra] { extra = checkpoint::Extra::kKept; },
      "Take a checkpoint with tensors that the architecture does not name: they are listed, and " +
          fate);
}

void add_average_option(CLI::App& command, infer::WeightsOf& weights) {
  command.add_flag_callback(
      "--ema", [&weights] { weights = infer::WeightsOf::kAverage; },
      "The weights averaged over training, where `train --ema` kept them");
}

void add_load_options(CLI::App& command, infer::LoadOptions& options) {
  add_average_option(command, options.weights);
  add_extra_option(command, options.extra);
}

void add_integer_options(CLI::App& command, IntegerOptions& options) {
  command.add_option("--experts", options.experts, "fp8, int8 or int4")
      ->check(CLI::IsMember({"fp8", "int8", "int4"}));
  command.add_option("--head", options.head, "kept, or int8")
      ->check(CLI::IsMember({"kept", "int8"}));
}

void apply(const IntegerOptions& options, model::Fp8Blocks& blocks) {
  if (!options.experts.empty()) {
    blocks.expert_bits = options.experts == "int8" ? 8 : options.experts == "int4" ? 4 : 0;
  }
  if (!options.head.empty()) blocks.head_bits = options.head == "int8" ? 8 : 0;
}

std::string read_standard_input() {
  std::string out(std::istreambuf_iterator<char>(std::cin), {});
  if (std::cin.bad()) fail("standard input: cannot be read");
  return out;
}

void print_now(std::string_view given) {
  static const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  const std::string made = terminal ? printable(given) : "";
  const std::string_view text = terminal ? made : given;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    fail("standard output: cannot be written");
  }
}

std::string statistics(const infer::Generation& g) {
  std::string out = fmt::format("prompt: {} tokens", g.prefill);
  if (g.reused > 0) out += fmt::format(" and {} kept from before", g.reused);
  out += fmt::format(", {:.1f} tokens/s; written: {} tokens", g.prefill_rate(), g.tokens.size());
  if (g.steps > 0) out += fmt::format(", {:.1f} tokens/s", g.decode_rate());
  out += fmt::format(" ({})", infer::name_of(g.stop));
  if (g.drafts.empty()) return out;
  out += fmt::format("\ndrafts: {:.2f} tokens a step; accepted by position:",
                     static_cast<double>(g.decoded) / static_cast<double>(g.steps));
  for (const infer::Generation::Drafts& d : g.drafts) {
    out += fmt::format(" {:.0f}% of {}",
                       100 * static_cast<double>(d.accepted) / static_cast<double>(d.made), d.made);
  }
  return out;
}

text::Tokenizer load_tokenizer(const std::string& folder) {
  const fs::path path = folder;
  return text::Tokenizer::load(text::has_tokenizer(path) ? path : checkpoint::model_folder(path));
}

}  // namespace minke::app
