// config.json of a Hugging Face folder, to and from model::ModelConfig.
//
// Read: DeepSeek-V2, V3 and Kimi-K2 files as released, and as transformers saves them again
// (rope_parameters, dtype). An unknown value of a field that decides what is computed is an Error;
// an unknown key is kept. Written: every field that transformers and the released code read.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/file.h"
#include "model/config.h"

namespace minke::checkpoint {

struct HfConfig {
  model::ModelConfig model;
  // The file's own keys, in its order; write_config() takes from here what it does not know.
  nlohmann::ordered_json kept = nlohmann::ordered_json::object();
};

// Error naming the file, the field, what it is and what was expected. The result is checked.
HfConfig read_config(const fs::path& path);
// As read_config; `where` stands for the file in errors.
HfConfig parse_config(std::string_view text, const std::string& where);

// The file's text. What `model` says overrides what was kept: a model without `quantization` is
// written without quantization_config.
std::string config_text(const HfConfig& config);

// As config.json spells them: sigmoid; noaux_tc.
std::string_view name_of(ops::Scoring scoring);
std::string_view name_of(ops::TopkMethod method);

}  // namespace minke::checkpoint
