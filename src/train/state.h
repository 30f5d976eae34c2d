// A run's checkpoint: a Hugging Face folder that serves and exports, plus what training needs to go
// on as if it had never stopped.
//
//   optimizer.safetensors   master.NAME (FP32), m.NAME, v.NAME (as --moments says), for every
//                           weight by its Hugging Face name
//   ema.safetensors         the averaged weights, FP32, by their Hugging Face names; where they are
//                           kept
//   trainer_state.json      the step, the length trained on, the steps that the next are compared
//                           with, and the hashes of data and tokenizer that the run is bound to
//   checksums.json          of every other file
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/generation_config.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/safetensors.h"
#include "train/trainer.h"

namespace minke::train {

struct RunIdentity {
  std::string data_hash;
  std::string tokenizer_hash;
  std::string isa;  // another instruction set goes on with other bytes
};

// What a checkpoint carries from the model that training began with.
struct Carried {
  checkpoint::GenerationConfig generation;
  std::vector<checkpoint::StoredTensor> extras;  // tensors that the architecture does not name
};

// Durably replaces `folder`. `tokenizer` is the folder whose tokenizer files are copied along.
void save_state(const fs::path& folder, model::Transformer& model,
                const checkpoint::HfConfig& config, Trainer& trainer, const RunIdentity& identity,
                const fs::path& tokenizer, const Carried& carried = {});

// Reads what save_state wrote besides the weights, which have been loaded from there. Error: files
// that are damaged, or of another model, data or tokenizer than `identity` says, or that do not fit
// each other. A warning where the instruction set is another.
void load_state(const fs::path& folder, model::Transformer& model, Trainer& trainer,
                const RunIdentity& identity);

// Tokens of a sequence that the checkpoint in `folder` was trained on; nothing where minke did not
// train it.
std::optional<int64_t> trained_length(const fs::path& folder);

// Makes `to` the same checkpoint as `from`, whose files never change: they are linked.
void keep_checkpoint(const fs::path& from, const fs::path& to);

// Bytes on disk of one checkpoint.
uint64_t state_bytes_on_disk(const model::ModelConfig& config, const Options& options);

}  // namespace minke::train
