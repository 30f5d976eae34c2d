// Files of named tensors: the safetensors format of Hugging Face. Eight bytes of header length
// (little endian), the header (JSON: name -> dtype, shape, data_offsets), the numbers.
//
// A file is a promise: whatever is not exactly as the format says is an Error that names the file
// and the tensor. Of the format's dtypes all can be carried and copied; those of DType can be
// computed with.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace minke::checkpoint {

// How a file names and shapes a tensor.
struct TensorSpec {
  std::string name;
  std::string dtype;  // as the format spells it: BF16, F32, F8_E4M3, F16, ...
  std::vector<int64_t> shape;

  TensorSpec() = default;
  TensorSpec(std::string its_name, std::string its_dtype, std::vector<int64_t> its_shape)
      : name(std::move(its_name)), dtype(std::move(its_dtype)), shape(std::move(its_shape)) {}
  TensorSpec(std::string its_name, DType its_dtype, const Shape& its_shape);
  // Bytes of the numbers. Error (dtype unknown, negative dimension, more than 2^62 bytes).
  uint64_t bytes() const;
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

// A tensor as it lies in a mapped file.
struct StoredTensor : TensorSpec {
  const std::byte* data = nullptr;
  size_t size = 0;

  std::span<const std::byte> span() const { return {data, size}; }
};

// One file, mapped: pages are read when touched. Tensors live as long as the SafetensorsFile.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const fs::path& path);

  const fs::path& path() const { return file_.path(); }
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(std::string_view name) const { return tensors_.contains(name); }
  // Error: no such tensor.
  const StoredTensor& stored(std::string_view name) const;
  // A view of the mapped numbers, never to be written. Error: no such tensor, a dtype that is not
  // among DType's, a rank above Shape's; in the second form also: another dtype or shape.
  Tensor tensor(std::string_view name) const;
  Tensor tensor(std::string_view name, DType dtype, const Shape& shape) const;

 private:
  void read_header();

  MappedFile file_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<Buffer> aligned_;  // copies of tensors that the file does not align
};

// Writes one file, tensor by tensor, so that no more than one has to be in memory. It appears under
// its name at finish(), whole; destroyed before, it leaves nothing. The same tensors give the same
// bytes, whatever order they are announced in.
class SafetensorsWriter {
 public:
  // Error: a name twice, or what TensorSpec::bytes() refuses.
  SafetensorsWriter(const fs::path& path, std::vector<TensorSpec> tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  // In the order in which they must be written: wide dtypes first, so that all are aligned.
  const std::vector<TensorSpec>& order() const { return order_; }
  // The next tensor of order(): MINKE_CHECK that dtype and shape are those announced.
  void write(const Tensor& tensor);
  // The next bytes of the next tensor of order(), or all of them.
  void write_bytes(std::span<const std::byte> bytes);
  void finish();
  uint64_t bytes() const { return file_.bytes(); }

 private:
  AtomicFile file_;
  std::vector<TensorSpec> order_;
  size_t next_ = 0;
  uint64_t written_ = 0;  // bytes of order_[next_]
};

// The tensors of a checkpoint, in one file or in shards beside an index: one map over all of them.
class CheckpointFolder {
 public:
  // A folder: stem.safetensors, or else the shards of stem.safetensors.index.json. A file: that
  // file. Error: neither there; an index that names a missing shard, or a tensor its shard lacks.
  explicit CheckpointFolder(const fs::path& path, std::string_view stem = "model");

  const fs::path& path() const { return path_; }
  const std::string& stem() const { return stem_; }
  const std::map<std::string, const SafetensorsFile*, std::less<>>& tensors() const {
    return where_;
  }
  bool contains(std::string_view name) const { return where_.contains(name); }
  const SafetensorsFile& file_of(std::string_view name) const;
  const StoredTensor& stored(std::string_view name) const { return file_of(name).stored(name); }
  Tensor tensor(std::string_view name) const { return file_of(name).tensor(name); }
  Tensor tensor(std::string_view name, DType dtype, const Shape& shape) const {
    return file_of(name).tensor(name, dtype, shape);
  }

 private:
  void read_index(const fs::path& folder, const fs::path& index);

  fs::path path_;
  std::string stem_;
  std::map<std::string, SafetensorsFile> files_;
  std::map<std::string, const SafetensorsFile*, std::less<>> where_;
};

}  // namespace minke::checkpoint
