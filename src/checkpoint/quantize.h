// A checkpoint in FP8, as DeepSeek releases its own: weights of linear layers are E4M3 codes with
// an FP32 scale for each 128x128 block (`<name>_scale_inv`); embedding, head, norms, routers with
// their biases and MTP's eh_proj stay what they are, bit for bit. (V3 report, section 3.3)
//
// Or, where that is asked for, with integers in place of experts and head (tensor/integers.h):
// codes I8 [out, in] or, of 4 bits, U8 [out, ceil(in / 2)], and `<name>_scale` BF16 [out, blocks of
// in]. quantization_config then has quant_method "minke", which no other reader takes.
#pragma once

#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"
#include "tensor/scales.h"

namespace minke::checkpoint {

// Whether released FP8 files hold this tensor as codes.
bool is_fp8_weight(std::string_view name);

// A matrix (FP32) in blocks of 128x128; a block of numbers that are codes times a scale already
// becomes those. Error: a number that is not finite.
struct Fp8Matrix {
  OwnedTensor codes, scale;
};
Fp8Matrix quantized(const Tensor& x, ScaleFormat format);

struct QuantizedSizes {
  uint64_t before = 0, after = 0;  // bytes of numbers
};

// Writes `files`, quantised as `how` says, into folder `into`: one shard as model.safetensors,
// several each under its name, and their index. Extra tensors that are kept stay bit for bit,
// whatever their names. Of FP8 codes those that become integers are read with
// their scales, and the others stay bit for bit. Error: a model that is so already, a number that
// is not finite, what extra_tensors() refuses. on_bytes: bytes of the source that were read since
// the last call.
QuantizedSizes quantize(const fs::path& into, const CheckpointFolder& files, const HfConfig& config,
                        Extra extra, const model::Fp8Blocks& how,
                        const std::function<void(uint64_t)>& on_bytes);

}  // namespace minke::checkpoint
