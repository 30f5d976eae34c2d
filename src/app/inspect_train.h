// minke inspect --train: what a training step of a model holds in memory, by kind.
#pragma once

#include <nlohmann/json.hpp>

#include "model/config.h"
#include "model/weight.h"

namespace minke::app {

struct TrainShape {
  int64_t sequences = 16;  // computed at once
  int64_t positions = 256;
  model::Precision precision = model::Precision::kBF16;
};

// A table with a column for each level of recomputation.
void print_train_memory(const model::ModelConfig& config, const TrainShape& shape);
// {level: {kind: bytes}}
nlohmann::ordered_json train_memory_json(const model::ModelConfig& config, const TrainShape& shape);

}  // namespace minke::app
