// Reads the safetensors of tests/golden without the room that checkpoints live in: number formats
// are below it. Trusts the file.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace minke {

class GoldenFile {
 public:
  explicit GoldenFile(const fs::path& path) {
    const MappedFile file(path);
    const auto* bytes = reinterpret_cast<const char*>(file.bytes().data());
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, bytes, sizeof header_bytes);
    const char* header = bytes + sizeof header_bytes;
    const char* data = header + header_bytes;
    const auto entries = nlohmann::json::parse(header, data);
    for (const auto& [name, entry] : entries.items()) {
      if (name == "__metadata__") continue;
      const auto dims = entry.at("shape").get<std::vector<int64_t>>();
      OwnedTensor tensor(dtype_named(entry.at("dtype").get<std::string>()),
                         Shape(std::span<const int64_t>(dims)));
      // Copied: the file does not promise alignment.
      std::memcpy(tensor.raw(), data + entry.at("data_offsets").at(0).get<uint64_t>(),
                  tensor.bytes());
      tensors_.emplace(name, std::move(tensor));
    }
  }
  Tensor at(const std::string& name) const { return tensors_.at(name); }

 private:
  static DType dtype_named(const std::string& name) {
    for (const DType dtype : {DType::kF32, DType::kI32, DType::kU8}) {
      if (name == name_of(dtype)) return dtype;
    }
    fail("{}: not a dtype of these goldens", name);
  }

  std::map<std::string, OwnedTensor> tensors_;
};

// Of number formats and scales.
inline const GoldenFile& goldens() {
  static const GoldenFile file(MINKE_GOLDEN_DIR "/fp8/fp8.safetensors");
  return file;
}

}  // namespace minke
