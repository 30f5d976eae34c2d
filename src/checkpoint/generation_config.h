// generation_config.json of a Hugging Face folder: what the makers of a model would have it sampled
// with, and the tokens that end its texts.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/file.h"

namespace minke::checkpoint {

struct GenerationConfig {
  std::vector<int64_t> eos_token_id;  // one or several; empty where it says none
  // Absent where the file does not say. "do_sample": false is a temperature of 0.
  std::optional<double> temperature, top_p, min_p;
  std::optional<int64_t> top_k;
  // The file's own keys, for whoever writes it again.
  nlohmann::ordered_json kept = nlohmann::ordered_json::object();
};

// Error naming the file (`where`), the field, what it is and what was expected.
GenerationConfig parse_generation_config(std::string_view text, const std::string& where);
// Of the folder's file; nothing in it where there is none.
GenerationConfig read_generation_config(const fs::path& folder);

// The file's text: what was kept, with these tokens where it names others. bos: -1: none.
std::string generation_config_text(const GenerationConfig& config, int64_t bos,
                                   const std::vector<int64_t>& eos);

}  // namespace minke::checkpoint
