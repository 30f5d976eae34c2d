// minke inspect --activations: see study/activations.h.
#pragma once

#include <string>
#include <vector>

#include "infer/loaded_model.h"

namespace minke::app {

struct ActivationsRequest {
  std::string file, text;
  model::Precision precision = model::Precision::kBF16;
  std::vector<std::string> select = {"*"};  // shell patterns
  infer::LoadOptions load;
};

// Writes the file and prints what is in it. `text` -: standard input.
void write_activations(const std::string& model, const ActivationsRequest& request);

}  // namespace minke::app
