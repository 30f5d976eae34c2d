// A folder of Hugging Face files to a model and back.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "checkpoint/safetensors.h"
#include "model/transformer.h"
#include "tensor/scales.h"

namespace minke::checkpoint {

// DIR itself where it holds a config.json, or the checkpoint of the training run in DIR. Writes
// nothing: the run may be going on.
fs::path model_folder(const fs::path& folder);
// Whether DIR holds a model's weights beside its config.
bool has_weights(const fs::path& folder);

// Where a model's weights come from. For inference matrices stay in the mapped file, which must
// then outlive the model; for training all are read into FP32 masters.
enum class Use { kInference, kTraining };

// What is done with tensors that the architecture does not name: a fault, or they are carried along
// and nothing is computed with them (--allow-extra).
enum class Extra { kRefused, kKept };

// Those tensors, as they lie in the files. Old files' rotary_emb.inv_freq, which config.json says
// already, is none. Error naming the first where they are refused.
std::vector<StoredTensor> extra_tensors(model::Transformer& architecture,
                                        const CheckpointFolder& files, Extra extra);
// Says on standard error which there are, and what becomes of them.
void list_extras(std::span<const StoredTensor> extras, std::string_view fate);

// What is wrong with the first of the MTP layers' copies of embedding and head that differs from
// the trunk's, with which MTP is computed here. Reads them all where none does.
std::optional<std::string> differing_copy(const model::ModelConfig& config,
                                          const CheckpointFolder& files);

// Reads every weight and router bias by name; each tensor's dtype (BF16 or FP32; where config.json
// says so, and for training, E4M3 with a scale for each block of 128x128, in whatever shard) and
// shape are checked. Codes stay codes for inference. For training there must be no
// differing_copy(): for inference whoever decodes looks for one. Error: a tensor that is missing,
// mis-shaped, of a dtype that cannot be executed, or that the architecture does not name and that
// is refused. The model is not yet prepared. Returns the extra tensors.
std::vector<StoredTensor> load_weights(model::Transformer& model, const CheckpointFolder& files,
                                       Use use, Extra extra = Extra::kRefused);

// A tensor of a file: its numbers, and what they are written in (FP32 also as BF16, or quantised as
// its codes or their scales).
struct TensorToWrite {
  enum class As { kNumbers, kCodes, kScales };
  std::string name;
  Tensor value;
  DType dtype = DType::kF32;
  As as = As::kNumbers;
  ScaleFormat scales = ScaleFormat::kF32;
};

// What model.safetensors holds, as released files do: BF16 weights (codes and scales where they are
// that), FP32 bias, the MTP layers with their copies of embedding and head. Where the config has a
// quantization, FP32 masters of linear layers are written as codes, with scales of the model's
// recipe: those that training in FP8 computed with. Views of the model's.
std::vector<TensorToWrite> weights_to_save(model::Transformer& model);
// `extras` byte for byte besides.
void write_tensors(const fs::path& path, std::span<const TensorToWrite> tensors,
                   std::span<const StoredTensor> extras = {});

}  // namespace minke::checkpoint
