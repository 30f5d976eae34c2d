// Flags that `generate` and `chat` share: which model, and how its tokens are chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "infer/generation.h"
#include "infer/sampler.h"
#include "infer/text_model.h"
#include "text/tokenizer.h"

namespace minke::app {

struct TextOptions {
  std::string model;
  std::string precision = "bf16";
  int64_t max_tokens = 256;
  // A little colder than the model itself, and without its long tail: a small model's own
  // distribution wanders.
  infer::Sampling sampling{.temperature = 0.8, .top_k = 0, .top_p = 0.95, .min_p = 0, .seed = 0};
  int64_t prefill_rows = 64;
  bool ema = false;
  std::string draft = "auto";
};

void add_text_options(CLI::App& command, TextOptions& options);

infer::TextModel load_text_model(const TextOptions& options);

// --ema, for every command that reads a model's weights.
void add_ema_option(CLI::App& command, bool& ema);
infer::WeightsOf weights_of(bool ema);

// All of standard input. Error when it cannot be read.
std::string read_standard_input();
// To standard output, to be seen at once. Error when it cannot be written.
void print_now(std::string_view text);

// What was computed and how fast, for standard error.
std::string statistics(const infer::Generation& generation);

// The tokenizer of a folder that holds one, or of a run's model.
text::Tokenizer load_tokenizer(const std::string& folder);

}  // namespace minke::app
