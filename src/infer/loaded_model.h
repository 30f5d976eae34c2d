// A folder ready to write text: config, weights prepared for decoding.
#pragma once

#include <memory>

#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"
#include "checkpoint/safetensors.h"
#include "model/transformer.h"

namespace minke::infer {

struct LoadedModel {
  fs::path folder;  // where config.json lies
  checkpoint::HfConfig config;
  std::unique_ptr<checkpoint::CheckpointFolder> files;  // matrices stay in these mapped files
  std::unique_ptr<model::Transformer> model;
};

// Which of a checkpoint's weights: those of model.safetensors, or the averages over the steps of
// training that minke keeps beside them (ema.safetensors).
enum class WeightsOf { kModel, kAverage };

// A model's folder, or a run's. Error for whatever read_config and load_weights refuse, and for a
// model whose prepared weights would not fit the memory that is left.
LoadedModel load_model(const fs::path& folder, model::Precision precision,
                       WeightsOf which = WeightsOf::kModel);

}  // namespace minke::infer
