// A folder ready to write text: config, weights prepared for decoding.
#pragma once

#include <memory>

#include "checkpoint/generation_config.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"
#include "checkpoint/safetensors.h"
#include "infer/packed_file.h"
#include "model/transformer.h"

namespace minke::infer {

struct LoadedModel {
  fs::path folder;  // where config.json lies
  checkpoint::HfConfig config;
  checkpoint::GenerationConfig generation;
  std::unique_ptr<checkpoint::CheckpointFolder> files;  // matrices stay in these mapped files
  // Weights as products read them, in one or the other.
  std::unique_ptr<PackedFile> packed;
  Buffer memory;
  std::unique_ptr<model::Transformer> model;

  std::span<const std::byte> operands() const {
    return packed ? packed->bytes() : std::span<const std::byte>(memory.data(), memory.size());
  }
};

// Which of a checkpoint's weights: those of model.safetensors, or the averages over the steps of
// training that minke keeps beside them (ema.safetensors).
enum class WeightsOf { kModel, kAverage };
// The stem of their files' names in `folder`. Error: no averages were kept there.
std::string_view stem_of(WeightsOf weights, const fs::path& folder);

struct LoadOptions {
  WeightsOf weights = WeightsOf::kModel;
  checkpoint::Extra extra = checkpoint::Extra::kRefused;
  // Weights that take so many bytes or more once prepared are packed in a file (see PackedFile),
  // which is mapped; others, and those of a run's checkpoint where they fit, in memory.
  size_t packed_from = size_t{1} << 30;
};

// A model's folder, or a run's. Error for whatever its readers refuse, and for a
// model whose prepared weights would not fit the memory, or the disk, that is left.
LoadedModel load_model(const fs::path& folder, model::Precision precision,
                       const LoadOptions& options = {});

}  // namespace minke::infer
