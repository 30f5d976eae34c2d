// Makes a folder that `minke verify` reads, with the float64 reference as the oracle.
#pragma once

#include "study/verify_folder.h"

namespace minke::study {

struct WriteOptions {
  fs::path model;  // a config.json, a folder with one and perhaps weights, or a run's folder
  uint64_t seed = 1;
  int64_t sequences = 2, positions = 26;
  bool documents = false;         // sequences of several documents, which attention does not cross
  int64_t prompt = 7, text = 16;  // tokens of the greedy continuation
};

// Weights are the model folder's, or random BF16 where it has none. Error: a folder that is there
// and not empty, sizes that the model does not have, a model too large for the reference.
void write_golden_folder(const fs::path& folder, const WriteOptions& options);

// Writes golden.safetensors and golden.json of `batch` into `folder`.
void write_golden(const fs::path& folder, const model::ModelConfig& config,
                  const ReferenceBatch& batch, const ReferenceResult& result,
                  const std::vector<int32_t>& prompt, const std::vector<int32_t>& greedy);

// Every parameter at random: norms near 1, matrices such that activations keep their size, rounded
// to BF16; router biases near 0, FP32.
Values random_weights(const model::ModelConfig& config, uint64_t seed);

}  // namespace minke::study
