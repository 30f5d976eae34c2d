// How well a loaded model predicts a text: what `minke eval` prints (train/evaluate.h).
#pragma once

#include <string>

#include "infer/loaded_model.h"
#include "text/tokenizer.h"
#include "train/evaluate.h"

namespace minke::study {

// How many tokens a window has, and where that is from.
struct EvalWindow {
  int64_t tokens = 0;
  const char* why = "";
};
// Of the model in `folder`. asked: 0 where nobody asks. Error where the model reads no texts as
// long.
EvalWindow eval_window(const fs::path& folder, const model::ModelConfig& config, int64_t asked);

// data: files, folders, globs or -. Error where the tokenizer has tokens that the model in `folder`
// lacks.
train::HeldOut held_out_text(const fs::path& folder, const model::ModelConfig& config,
                             const text::Tokenizer& tokenizer, const std::vector<std::string>& data,
                             const std::string& text_field);

// on_token: as train::EvalOptions has it; may be empty.
train::Evaluation evaluate_text(
    const infer::LoadedModel& loaded, model::Precision precision, const text::Tokenizer& tokenizer,
    const train::HeldOut& text, int64_t window,
    const std::function<void(int64_t position, int32_t id, float loss)>& on_token);

}  // namespace minke::study
