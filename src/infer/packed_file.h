// A model's weights as products read them, in a file that is mapped: a cache, made once from a
// checkpoint, and safe to delete at any time.
//
// It lies in the checkpoint's folder, or, where that cannot be written, in $XDG_CACHE_HOME/minke or
// ~/.cache/minke, then with a hash of that folder's path in its name. The last part of its name is
// a hash of what it was made from: the config; every tensor's name, type, shape, place and some of
// its pages; the files' sizes and times. Where it is made, those of the same folder and precision
// that are of other weights are removed. The hashes of its bytes are checked when it is opened; one
// that differs is made again.
#pragma once

#include "checkpoint/safetensors.h"
#include "model/transformer.h"

namespace minke::infer {

class PackedFile {
 public:
  // Where the file of `model`, loaded from `files` in `folder`, is or would be.
  static fs::path path_of(const fs::path& folder, const checkpoint::CheckpointFolder& files,
                          const model::Transformer& model);
  // Opens the file of `model`, whose weights have been loaded, or makes it, with progress on
  // standard error; and places the model's operands in it. Error where it cannot be written.
  PackedFile(const fs::path& path, model::Transformer& model);
  ~PackedFile();
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;

  const fs::path& path() const { return path_; }
  bool made() const { return made_; }  // now, not found
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  bool open(const fs::path& path, size_t bytes);
  void make(const fs::path& path, model::Transformer& model, size_t bytes);
  void unmap();

  fs::path path_;
  bool made_ = false;
  std::byte* data_ = nullptr;  // of the whole file
  size_t size_ = 0;
};

}  // namespace minke::infer
