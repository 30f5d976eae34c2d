// Numbers of a checkpoint's tensors as FP32, whatever they are stored as.
#pragma once

#include <optional>
#include <vector>

#include "checkpoint/safetensors.h"
#include "model/config.h"

namespace minke::checkpoint {

// The name of the scales of an FP8 weight; they may lie in another shard.
std::string scale_name(const std::string& weight);

// Of a file whose quantization_config makes integers of this tensor (tensor/integers.h): kI8 or
// kU8.
std::optional<DType> integers_of(const model::ModelConfig& config, std::string_view name);
// The name of their scales.
std::string integer_scale_name(const std::string& weight);

// All numbers of a tensor of F32, BF16, or F8_E4M3 with scales of 128x128 blocks. Error: no such
// tensor, no scales, another shape, another dtype.
std::vector<float> stored_values(const CheckpointFolder& files, const std::string& name,
                                 const Shape& shape);

}  // namespace minke::checkpoint
