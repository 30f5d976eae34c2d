// A longer context for a model that was trained on a shorter one, by YaRN (V3 report, section 4.3).
#pragma once

#include <optional>

#include "model/config.h"
#include "train/options.h"

namespace minke::train {

// What --extend-context says, such as 4x: 4; nothing where it is not given. Error: neither.
std::optional<double> context_factor_of(const Options& options);

// The context becomes `factor` times as long as the one that the model has. A model with YaRN keeps
// what it says, its factor multiplied. One without gets V3's (beta 32 and 1, mscale and
// mscale_all_dim 1), its original length being the one that it was trained on: `trained` where that
// is known, or else max_position_embeddings, which never becomes smaller. Error: a context that no
// config may have.
void extend_context(model::ModelConfig& config, double factor, std::optional<int64_t> trained);

}  // namespace minke::train
