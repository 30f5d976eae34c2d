// The bytes of a file, decompressed where it is an archive.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/file.h"

namespace minke::train {

enum class Compression { kNone, kGzip, kZstd };

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Fills the front of `out` and says how much of it; 0 at the end only. Error, naming the file:
  // it cannot be read, or the archive is damaged or cut short.
  virtual size_t read(std::span<char> out) = 0;
  // How much of the file itself was read so far.
  virtual uint64_t file_bytes() const = 0;
};

std::unique_ptr<ByteStream> open_stream(const fs::path& path, Compression compression);

}  // namespace minke::train
