// One forward pass of a text through a model's trunk, with all that it computed on the way.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "infer/loaded_model.h"
#include "text/tokenizer.h"

namespace minke::study {

class TextForward {
 public:
  // The text begins a document. Error: it is empty, or longer than the model's positions; what a
  // model or tokenizer that does not load says.
  TextForward(const std::string& model_folder, model::Precision precision, std::string_view text,
              const infer::LoadOptions& load = {});

  const fs::path& folder() const { return loaded_.folder; }
  model::Transformer& model() { return *loaded_.model; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  // What token i stands for; of a control token, its name.
  std::string text_of(size_t i) const;
  // Of the trunk: no MTP depth is run.
  const model::Transformer::Saved& saved() const { return saved_; }
  model::Pass pass() { return {loaded_.model->precision(), *arena_, *scratch_}; }

 private:
  text::Tokenizer tokenizer_;
  infer::LoadedModel loaded_;
  std::vector<int32_t> tokens_;
  std::unique_ptr<Arena> arena_, scratch_;
  model::Transformer::Saved saved_;
};

}  // namespace minke::study
