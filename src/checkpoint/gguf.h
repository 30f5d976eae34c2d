// GGUF, version 3: the file of llama.cpp (ggml's docs/gguf.md). Written, not read.
//
// A header of named values, a list of tensors, and their numbers, each tensor at a multiple of 32
// bytes. A tensor's sizes are written with the innermost first.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"

namespace minke::checkpoint {

enum class GgufType : uint32_t { kF32 = 0, kF16 = 1, kQ8 = 8, kBF16 = 30 };

// Q8_0: 32 numbers of a row share an F16 scale, amax / 127.
inline constexpr int64_t kQ8Block = 32;

// Bytes of `count` numbers of one or more whole rows.
uint64_t gguf_bytes(GgufType type, int64_t count);
// Appends x's numbers. x has whole blocks. Error: a number that F16 (for kQ8: its scale) cannot
// hold.
void append_gguf(std::string& out, std::span<const float> x, GgufType type);

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<int64_t> shape;  // outermost first, as everywhere else here
  uint64_t bytes() const;
};

// Metadata in the order given, each key once.
class GgufMetadata {
 public:
  void add(const std::string& key, uint32_t value);
  void add(const std::string& key, float value);
  void add(const std::string& key, bool value);
  void add(const std::string& key, std::string_view value);
  void add(const std::string& key, const char* value) { add(key, std::string_view(value)); }
  void add(const std::string& key, const std::vector<std::string>& values);
  void add(const std::string& key, const std::vector<int32_t>& values);

  uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void begin(const std::string& key, uint32_t type);

  std::string bytes_;
  uint64_t count_ = 0;
};

// The file appears under its name at finish(), whole; destroyed before, it leaves nothing.
class GgufWriter {
 public:
  GgufWriter(const fs::path& path, const GgufMetadata& metadata, std::vector<GgufTensor> tensors);
  // The next bytes of the next tensor, in the order announced; never across its end.
  void write(std::string_view bytes);
  void finish();
  uint64_t bytes() const { return file_.bytes(); }

 private:
  void pad();

  AtomicFile file_;
  std::vector<GgufTensor> tensors_;
  size_t next_ = 0;
  uint64_t written_ = 0;  // bytes of tensors_[next_]
};

}  // namespace minke::checkpoint
