// Flags that `generate` and `chat` share: which model, and how its tokens are chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "infer/generation.h"
#include "infer/sampler.h"
#include "infer/text_model.h"
#include "text/tokenizer.h"

namespace minke::app {

struct TextOptions {
  std::string model;
  model::Precision precision = model::Precision::kBF16;
  int64_t max_tokens = 256;
  // Absent where no flag says.
  std::optional<double> temperature, top_p, min_p;
  std::optional<int64_t> top_k;
  uint64_t seed = 0;
  int64_t prefill_rows = 64;
  infer::LoadOptions load;
  std::string draft = "auto";
  std::string chat_format = {};  // see infer::TextModel
};

void add_text_options(CLI::App& command, TextOptions& options);

// Reads the model, once the flags make sense.
infer::TextModel load_text_model(const TextOptions& options,
                                 const infer::TextModel::Check& check = {});

// How tokens are chosen: as flags say, or else the model's generation_config.json, or else a little
// colder than the model itself, and without its long tail: a small model's own distribution
// wanders.
infer::Sampling sampling_of(const TextOptions& options, const checkpoint::GenerationConfig& config);

// --allow-extra, for every command that reads a model's weights. fate: what becomes of such
// tensors, "they are listed, and ...". And --ema, alone and with it.
CLI::Option* add_extra_option(CLI::App& command, checkpoint::Extra& extra,
                              const std::string& fate = "not used");
void add_average_option(CLI::App& command, infer::WeightsOf& weights);
void add_load_options(CLI::App& command, infer::LoadOptions& options);

// --experts and --head: which weights are integers; empty where no flag says.
struct IntegerOptions {
  std::string experts, head;
};
void add_integer_options(CLI::App& command, IntegerOptions& options);
void apply(const IntegerOptions& options, model::Fp8Blocks& blocks);

// All of standard input. Error when it cannot be read.
std::string read_standard_input();
// To standard output, to be seen at once; made printable() where that is a terminal. Error when it
// cannot be written.
void print_now(std::string_view text);

// What was computed and how fast, for standard error.
std::string statistics(const infer::Generation& generation);

// The tokenizer of a folder that holds one, or of a run's model.
text::Tokenizer load_tokenizer(const std::string& folder);

}  // namespace minke::app
