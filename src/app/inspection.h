// What `minke inspect` says of a model: facts, costs and files, as a text or as JSON.
#pragma once

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "model/cost.h"

namespace minke::app {

inline constexpr int64_t kCacheNumber = 2;  // a cache is counted in BF16

struct Dtype {
  int64_t tensors = 0, numbers = 0;
  uint64_t bytes = 0;
};

// The tensors of a folder: what lies in which file, and in which type.
struct Files {
  std::map<std::string, Dtype> by_dtype;
  std::map<std::string, Dtype> by_file;
  Dtype all;
  // Parameters as model/cost.h counts them: no scales of blocks, no repeated embedding and head.
  int64_t parameters = 0;
  std::vector<checkpoint::TensorSpec> extras;  // what the architecture does not name
};

// All that is printed, in either form.
struct Inspection {
  std::string path;
  model::ModelConfig config;
  model::ParameterCounts parameters;
  model::CacheBytes cache;
  int64_t train_positions = 0;
  model::TrainFlops train;
  std::optional<Files> files;
};

// Of a model's folder, a run's, or a config.json. Error: there is none.
Inspection inspect(const fs::path& path);

struct Component {
  const char* name;
  const char* key;
  int64_t model::Parameters::*count;
};
inline constexpr std::array<Component, 9> kComponents = {{
    {"embedding", "embedding", &model::Parameters::embedding},
    {"attention", "attention", &model::Parameters::attention},
    {"dense feed-forward", "dense", &model::Parameters::dense},
    {"router", "router", &model::Parameters::router},
    {"shared experts", "shared_experts", &model::Parameters::shared},
    {"routed experts", "routed_experts", &model::Parameters::routed},
    {"norms", "norms", &model::Parameters::norms},
    {"MTP projection", "mtp_projection", &model::Parameters::projection},
    {"head", "head", &model::Parameters::head},
}};

void print(const Inspection& inspection);
void print_files(const Inspection& inspection);
nlohmann::ordered_json json_of(const Inspection& inspection);

}  // namespace minke::app
