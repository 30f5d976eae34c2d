// A model of random numbers in the shape of a config, on disk: to measure speed at sizes for which
// there is no model at hand.
#pragma once

#include "base/file.h"
#include "checkpoint/hf_config.h"

namespace minke::study {

// Writes config.json and model.safetensors into the folder, in pieces: matrices in E4M3 with scales
// where the config has a quantization_config (as released files: attention and feed-forward), else
// BF16; integers of experts and head where that says so. Numbers are normal, of deviation
// initializer_range. Error where the disk has no room.
void write_synthetic_model(const fs::path& folder, const checkpoint::HfConfig& config);

}  // namespace minke::study
