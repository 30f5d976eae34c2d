// A run's checkpoint: a Hugging Face folder that serves and exports, plus what training needs to go
// on as if it had never stopped.
//
//   optimizer.safetensors   master.NAME (FP32), m.NAME, v.NAME (as --moments says), for every
//                           weight by its Hugging Face name
//   ema.safetensors         the averaged weights, FP32, by their Hugging Face names; where they are
//                           kept
//   trainer_state.json      the version that wrote it, the step, updates of the weights, the length
//                           trained on, the steps that the next are compared with, and the hashes
//                           of data and tokenizer that the run is bound to
//   checksums.json          of every other file
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/generation_config.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"
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

// What a checkpoint will hold, of one moment. It names the numbers where they lie in model and
// trainer until keep() has copied them; then training may go on while they are written.
class Snapshot {
 public:
  // `tokenizer` is the folder whose tokenizer files are copied along.
  Snapshot(model::Transformer& model, const checkpoint::HfConfig& config, Trainer& trainer,
           const RunIdentity& identity, fs::path tokenizer, const Carried& carried = {});

  // What keep() takes.
  uint64_t bytes() const { return bytes_; }
  void keep();
  // Durably replaces `folder`.
  void write(const fs::path& folder) const;

 private:
  std::vector<std::pair<std::string, std::string>> texts_;  // files and what they say
  fs::path tokenizer_;
  std::map<std::string, std::vector<checkpoint::TensorToWrite>> tensors_;  // by file
  std::vector<checkpoint::StoredTensor> extras_;
  // Where they lie, each once (files share them): its place in the copy.
  std::map<const void*, uint64_t> places_;
  uint64_t bytes_ = 0;
  Buffer kept_;
};

// Reads what a snapshot wrote besides the weights, which have been loaded from there. Error: files
// that are damaged, or of another model, data or tokenizer than `identity` says, that do not fit
// each other, or that a version of minke wrote which kept less. A warning where the instruction set
// is another.
void load_state(const fs::path& folder, model::Transformer& model, Trainer& trainer,
                const RunIdentity& identity);

// Tokens of a sequence that the checkpoint in `folder` was trained on; nothing where minke did not
// train it, or did not say so yet.
std::optional<int64_t> trained_length(const fs::path& folder);

// Makes `to` the same checkpoint as `from`, whose files never change: they are linked.
void keep_checkpoint(const fs::path& from, const fs::path& to);

// Bytes on disk of one checkpoint.
uint64_t state_bytes_on_disk(const model::ModelConfig& config, const Options& options);

}  // namespace minke::train
