// A folder's model as one GGUF file of architecture deepseek2, which llama.cpp reads.
#pragma once

#include "checkpoint/gguf.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/model_files.h"

namespace minke::checkpoint {

// A tokenizer in llama.cpp's words (tokenizer.ggml.*). Tokens that the head has and the tokenizer
// has not are written as unused.
struct GgufVocabulary {
  enum Kind : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };
  std::string pre;                  // what it calls the way of splitting
  std::vector<std::string> tokens;  // in the byte-level alphabet; added tokens as they are
  std::vector<int32_t> kinds;       // of each token
  std::vector<std::string> merges;  // "left right"
  int32_t bos = -1, eos = -1, end_of_turn = -1, padding = -1;  // -1: none
  bool add_bos = false;
  std::string chat_template;
};

// Error naming what llama.cpp would compute otherwise or not read at all: a model without
// q_lora_rank that has not the layers of one it knows, groups chosen by their best expert, a scale
// of YaRN other than it assumes, rows that are no whole blocks of Q8_0.
void check_gguf_export(const model::ModelConfig& config, GgufType type);

// Writes `path`, durably replaced. Matrices become `type`; norms, the router and its bias stay
// FP32. MTP layers become nextn tensors. llama.cpp reads no file with tensors that it does not
// know: extra ones that are not refused are left out. Error: see above; a tensor that is missing or
// mis-shaped, and what extra_tensors() refuses. on_tensor: tensors written so far, and of how many.
void export_gguf(const fs::path& path, const CheckpointFolder& files,
                 const model::ModelConfig& config, const GgufVocabulary& vocabulary, GgufType type,
                 Extra extra, const std::function<void(size_t, size_t)>& on_tensor);

}  // namespace minke::checkpoint
