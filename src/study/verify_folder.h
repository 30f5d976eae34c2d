// A folder to verify against: a Hugging Face model (config.json, model.safetensors or its shards)
// beside what an oracle computed with it.
//
// golden.safetensors: tokens [B, S] I32; documents [B, S] I32; and by the names of ReferenceResult,
//   FP32 in [B, S - depth, ...]: hidden, logits.K, latent.N, route.N.experts (I32), .weights,
//   .counts (I32), .bias_after, grad.NAME. Layer N of MTP depth K has S - K positions.
// golden.json: loss (by depth), balance, total, gamma, lambda, alpha, mask_documents, prompt,
// greedy. All but the tokens may be left out.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/hf_config.h"
#include "checkpoint/safetensors.h"
#include "study/reference_model.h"

namespace minke::study {

struct GoldenFolder {
  fs::path path;
  checkpoint::HfConfig config;
  std::unique_ptr<checkpoint::CheckpointFolder> files;
  ReferenceBatch batch;
  ReferenceResult golden;
  std::vector<int32_t> prompt, greedy;
  std::vector<std::string> lacks;  // what is not there to compare with, for people

  bool has(const std::string& name) const { return golden.numbers.contains(name); }
  bool has_gradients() const;
};

// A tensor that golden.safetensors may hold beside tokens and documents.
struct GoldenTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  int64_t layer = -1;  // of what is a layer's
};
std::vector<GoldenTensor> golden_tensors(const model::ModelConfig& config,
                                         const ReferenceBatch& batch);

// Error: a file that is missing, is not what its format says, or does not fit the config.
GoldenFolder read_golden_folder(const fs::path& path);

// Every parameter and router bias: BF16, FP32, or FP8 with block scales. Error: one that is
// missing, mis-shaped or of another dtype.
Values read_weights(const checkpoint::CheckpointFolder& files, const model::ModelConfig& config);

// The layer's index among MTP depths: 0 for the trunk.
inline int64_t depth_of(const model::ModelConfig& config, int64_t layer) {
  return std::max<int64_t>(0, layer - config.num_hidden_layers + 1);
}

}  // namespace minke::study
