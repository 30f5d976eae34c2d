// A GGUF file read back by the letter of its format, for tests.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "tensor/number.h"

namespace minke::checkpoint {

struct GgufFile {
  struct Entry {
    uint32_t type = 0;
    std::vector<uint64_t> ne;  // innermost first
    std::string bytes;
  };
  std::map<std::string, uint32_t> whole;
  std::map<std::string, float> real;
  std::map<std::string, std::string> text;
  std::map<std::string, std::vector<std::string>> texts;
  std::map<std::string, std::vector<int32_t>> wholes;
  std::map<std::string, Entry> tensors;

  explicit GgufFile(const fs::path& path) : all_(read_file(path)) {
    if (take(4) != "GGUF" || number<uint32_t>() != 3) fail("not GGUF 3");
    const auto count = number<uint64_t>(), values = number<uint64_t>();
    for (uint64_t i = 0; i < values; ++i) read_value();
    std::vector<std::pair<std::string, uint64_t>> offsets;
    for (uint64_t i = 0; i < count; ++i) {
      const std::string name = string();
      Entry entry;
      entry.ne.resize(number<uint32_t>());
      for (uint64_t& size : entry.ne) size = number<uint64_t>();
      entry.type = number<uint32_t>();
      offsets.emplace_back(name, number<uint64_t>());
      tensors[name] = entry;
    }
    const size_t data = (at_ + 31) / 32 * 32;
    for (const auto& [name, offset] : offsets) {
      if (offset % 32 != 0) fail("{} is not aligned", name);
      Entry& entry = tensors[name];
      uint64_t numbers = 1;
      for (const uint64_t size : entry.ne) numbers *= size;
      const uint64_t bytes = entry.type == 0   ? 4 * numbers
                             : entry.type == 8 ? numbers / 32 * 34
                                               : 2 * numbers;
      if (data + offset + bytes > all_.size()) fail("{} lies beyond the end", name);
      entry.bytes = all_.substr(data + offset, bytes);
    }
  }

  // A tensor's numbers, whatever its type.
  std::vector<float> values(const std::string& name) const {
    const Entry& entry = tensors.at(name);
    std::vector<float> out;
    const auto at = [&]<typename T>(size_t byte, T) {
      T value;
      std::memcpy(&value, entry.bytes.data() + byte, sizeof value);
      return value;
    };
    switch (entry.type) {
      case 0:
        for (size_t i = 0; i < entry.bytes.size(); i += 4) out.push_back(at(i, 0.0F));
        break;
      case 1:
        for (size_t i = 0; i < entry.bytes.size(); i += 2) {
          out.push_back(static_cast<float>(at(i, _Float16())));
        }
        break;
      case 30:
        for (size_t i = 0; i < entry.bytes.size(); i += 2) {
          out.push_back(static_cast<float>(at(i, bf16())));
        }
        break;
      default:
        for (size_t block = 0; block < entry.bytes.size(); block += 34) {
          const auto scale = static_cast<float>(at(block, _Float16()));
          for (size_t i = 0; i < 32; ++i) out.push_back(scale * at(block + 2 + i, int8_t{}));
        }
    }
    return out;
  }

 private:
  std::string take(size_t bytes) {
    if (at_ + bytes > all_.size()) fail("GGUF ends early");
    at_ += bytes;
    return all_.substr(at_ - bytes, bytes);
  }
  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string string() { return take(number<uint64_t>()); }

  void read_value() {
    const std::string key = string();
    const auto type = number<uint32_t>();
    if (type == 4) whole[key] = number<uint32_t>();
    if (type == 6) real[key] = number<float>();
    if (type == 7) whole[key] = number<uint8_t>();
    if (type == 8) text[key] = string();
    if (type != 9) return;
    const auto of = number<uint32_t>();
    const auto count = number<uint64_t>();
    for (uint64_t i = 0; i < count; ++i) {
      if (of == 8) {
        texts[key].push_back(string());
      } else {
        wholes[key].push_back(number<int32_t>());
      }
    }
  }

  std::string all_;
  size_t at_ = 0;
};

}  // namespace minke::checkpoint
