#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "base/json.h"

namespace minke::checkpoint {
namespace {

using nlohmann::json;

// The reference implementation's cap. A released 671B model in one file would need 10 MB.
constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxName = 1024;
constexpr size_t kMaxRank = 16;
constexpr uint64_t kMaxTensorBytes = uint64_t{1} << 62;

struct FormatDType {
  std::string_view name;
  unsigned bits;
  std::optional<DType> dtype;
};

constexpr std::array<FormatDType, 21> kDTypes = {{
    {"F64", 64, DType::kF64},
    {"I64", 64, DType::kI64},
    {"U64", 64, {}},
    {"C64", 64, {}},
    {"F32", 32, DType::kF32},
    {"I32", 32, DType::kI32},
    {"U32", 32, {}},
    {"BF16", 16, DType::kBF16},
    {"F16", 16, {}},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"F8_E4M3", 8, DType::kE4M3},
    {"F8_E5M2", 8, {}},
    {"F8_E4M3FNUZ", 8, {}},
    {"F8_E5M2FNUZ", 8, {}},
    {"F8_E8M0", 8, {}},
    {"U8", 8, DType::kU8},
    {"I8", 8, DType::kI8},
    {"BOOL", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F4", 4, {}},
}};

const FormatDType* find_dtype(std::string_view name) {
  const auto* const found = std::find_if(kDTypes.begin(), kDTypes.end(),
                                         [&](const FormatDType& d) { return d.name == name; });
  return found == kDTypes.end() ? nullptr : found;
}

const FormatDType& known_dtype(const TensorSpec& spec) {
  const FormatDType* dtype = find_dtype(spec.dtype);
  if (dtype == nullptr) {
    fail("dtype is \"{}\", expected one of the safetensors format (BF16, F32, F8_E4M3, ...)",
         spec.dtype);
  }
  return *dtype;
}

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

// Names are shown in one-line errors, so they have no control characters.
bool is_sound_name(std::string_view name) {
  return name.size() <= kMaxName && std::all_of(name.begin(), name.end(), [](char c) {
           return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
         });
}

int64_t whole_number(const json& value, const char* what) {
  constexpr auto kMax = static_cast<uint64_t>(INT64_MAX);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMax) {
    fail("{} has {}, expected a whole number", what, shown(value));
  }
  return static_cast<int64_t>(value.get<uint64_t>());
}

// One entry of the header. Errors lack file and name, which the caller knows.
StoredTensor read_entry(const std::string& name, const json& entry,
                        std::span<const std::byte> numbers) {
  if (!entry.is_object()) fail("is {}, expected an object", shown(entry));
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!entry.contains(key)) fail("has no {}", key);
  }
  if (entry.size() != 3) fail("is {}, expected dtype, shape and data_offsets", shown(entry));
  const json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
  if (!dtype.is_string()) fail("dtype is {}, expected a string", shown(dtype));
  if (!shape.is_array() || shape.size() > kMaxRank) {
    fail("shape is {}, expected a list of at most {} sizes", shown(shape), kMaxRank);
  }
  if (!offsets.is_array() || offsets.size() != 2) {
    fail("data_offsets is {}, expected two numbers", shown(offsets));
  }
  StoredTensor tensor;
  tensor.name = name;
  tensor.dtype = dtype.get<std::string>();
  for (const json& size : shape) tensor.shape.push_back(whole_number(size, "shape"));
  const int64_t begin = whole_number(offsets[0], "data_offsets");
  const int64_t end = whole_number(offsets[1], "data_offsets");
  if (begin > end || static_cast<uint64_t>(end) > numbers.size()) {
    fail(
        "data_offsets are [{}, {}], expected them within the {} bytes of numbers that the file "
        "has; it may be truncated",
        begin, end, numbers.size());
  }
  const uint64_t expected = tensor.bytes();
  if (static_cast<uint64_t>(end - begin) != expected) {
    fail("data_offsets are [{}, {}], {} bytes, expected {} bytes for {} {}", begin, end,
         end - begin, expected, tensor.dtype, shape_text(tensor.shape));
  }
  tensor.data = numbers.data() + begin;
  tensor.size = static_cast<size_t>(expected);
  return tensor;
}

std::map<std::string, std::string> read_metadata(const json& entry, const std::string& where) {
  if (!entry.is_object()) fail("{}: __metadata__ is {}", where, shown(entry));
  std::map<std::string, std::string> out;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      fail("{}: __metadata__ has {}, expected a string", where, shown(value));
    }
    out[key] = value.get<std::string>();
  }
  return out;
}

// The format leaves no byte unnamed: a gap or an overlap is a damaged header.
void check_places(const std::map<std::string, StoredTensor, std::less<>>& tensors,
                  std::span<const std::byte> numbers, const std::string& where) {
  std::vector<const StoredTensor*> by_place;
  for (const auto& [name, tensor] : tensors) by_place.push_back(&tensor);
  std::stable_sort(by_place.begin(), by_place.end(), [](const auto* a, const auto* b) {
    return a->data < b->data || (a->data == b->data && a->size < b->size);
  });
  const std::byte* at = numbers.data();
  for (const StoredTensor* tensor : by_place) {
    if (tensor->data != at) {
      fail("{}: {}: begins at byte {}, expected {}, where the tensor before it ends", where,
           tensor->name, tensor->data - numbers.data(), at - numbers.data());
    }
    at += tensor->size;
  }
  if (at != numbers.data() + numbers.size()) {
    fail("{}: {} bytes of numbers, expected {}, where the last tensor ends", where, numbers.size(),
         at - numbers.data());
  }
}

}  // namespace

TensorSpec::TensorSpec(std::string its_name, DType its_dtype, const Shape& its_shape)
    : name(std::move(its_name)),
      dtype(name_of(its_dtype)),
      shape(its_shape.dims().begin(), its_shape.dims().end()) {}

uint64_t TensorSpec::bytes() const {
  const uint64_t bits_each = known_dtype(*this).bits;
  uint64_t bits = bits_each;
  bool zero = false;
  for (const int64_t size : shape) {
    if (size < 0) fail("shape is {}, expected no negative size", shape_text(shape));
    zero = zero || size == 0;
    // A zero further on does not excuse sizes whose product cannot be.
    if (size != 0 && __builtin_mul_overflow(bits, static_cast<uint64_t>(size), &bits)) {
      fail("shape is {}, more than any file holds", shape_text(shape));
    }
  }
  if (zero) return 0;
  if (bits / 8 > kMaxTensorBytes) fail("shape is {}, more than any file holds", shape_text(shape));
  if (bits % 8 != 0) fail("{} {} does not fill whole bytes", dtype, shape_text(shape));
  return bits / 8;
}

SafetensorsFile::SafetensorsFile(const fs::path& path) : file_(path) { read_header(); }

void SafetensorsFile::read_header() {
  const std::string where = path().string();
  const std::span<const std::byte> bytes = file_.bytes();
  if (bytes.size() < kLengthBytes) {
    fail("{}: {} bytes, too short for a safetensors file", where, bytes.size());
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  const uint64_t room = std::min<uint64_t>(bytes.size() - kLengthBytes, kMaxHeader);
  if (length > room) {
    fail("{}: header of {} bytes, expected at most {}; not a safetensors file, or truncated", where,
         length, room);
  }
  const auto header_size = static_cast<size_t>(length);
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
                                header_size);
  const std::span<const std::byte> numbers = bytes.subspan(kLengthBytes + header_size);
  const auto entries = parse_json<json>(header, where + ": header");
  if (!entries.is_object()) fail("{}: header is {}, expected an object", where, shown(entries));
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") {
      metadata_ = read_metadata(entry, where);
      continue;
    }
    if (!is_sound_name(name)) {
      fail("{}: a tensor is named {}, expected at most {} characters, none of control", where,
           shown(json(name)), kMaxName);
    }
    try {
      tensors_.emplace(name, read_entry(name, entry, numbers));
    } catch (const Error& error) {
      fail("{}: {}: {}", where, name, error.what());
    }
  }
  check_places(tensors_, numbers, where);
  for (auto& [name, tensor] : tensors_) {
    const std::optional<DType> dtype = known_dtype(tensor).dtype;
    if (!dtype || reinterpret_cast<uintptr_t>(tensor.data) % size_of(*dtype) == 0) continue;
    aligned_.emplace_back(tensor.size);
    std::memcpy(aligned_.back().data(), tensor.data, tensor.size);
    tensor.data = aligned_.back().data();
  }
}

const StoredTensor& SafetensorsFile::stored(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("{}: no tensor {}", path().string(), name);
  return found->second;
}

Tensor SafetensorsFile::tensor(std::string_view name) const {
  const StoredTensor& stored_tensor = stored(name);
  const std::optional<DType> dtype = known_dtype(stored_tensor).dtype;
  if (!dtype) {
    fail("{}: {}: dtype is {}, expected F32, BF16, F8_E4M3, F64, I64, I32, U8 or I8",
         path().string(), name, stored_tensor.dtype);
  }
  if (stored_tensor.shape.size() > Shape::kMaxRank) {
    fail("{}: {}: shape is {}, expected at most {} dimensions", path().string(), name,
         shape_text(stored_tensor.shape), Shape::kMaxRank);
  }
  return {const_cast<std::byte*>(stored_tensor.data), *dtype, Shape(stored_tensor.shape)};
}

Tensor SafetensorsFile::tensor(std::string_view name, DType dtype, const Shape& shape) const {
  const StoredTensor& got = stored(name);
  const TensorSpec expected(std::string(name), dtype, shape);
  if (got.dtype != expected.dtype || got.shape != expected.shape) {
    fail("{}: {}: is {} {}, expected {} {}", path().string(), name, got.dtype,
         shape_text(got.shape), expected.dtype, shape_text(expected.shape));
  }
  return tensor(name);
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<TensorSpec> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path), order_(std::move(tensors)) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::sort(order_.begin(), order_.end(), [](const TensorSpec& a, const TensorSpec& b) {
    const unsigned bits_a = known_dtype(a).bits, bits_b = known_dtype(b).bits;
    return bits_a != bits_b ? bits_a > bits_b : a.name < b.name;
  });
  uint64_t at = 0;
  for (const TensorSpec& spec : order_) {
    if (!is_sound_name(spec.name) || header.contains(spec.name)) {
      fail("{}: cannot write a tensor named {}: such a name twice, or not a name", path.string(),
           shown(json(spec.name)));
    }
    const uint64_t end = at + spec.bytes();
    header[spec.name] = {{"dtype", spec.dtype}, {"shape", spec.shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  // Spaces, as the format allows, until the numbers begin at a multiple of 8.
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  file_.write(&length, sizeof length);
  file_.write(text);
}

void SafetensorsWriter::write(const Tensor& tensor) {
  MINKE_CHECK(next_ < order_.size() && written_ == 0, "more tensors than announced");
  const TensorSpec& expected = order_[next_];
  MINKE_CHECK(TensorSpec(expected.name, tensor.dtype(), tensor.shape()) == expected,
              "{} {} announced as {} {} {}", name_of(tensor.dtype()), to_string(tensor.shape()),
              expected.name, expected.dtype, shape_text(expected.shape));
  write_bytes({static_cast<const std::byte*>(tensor.raw()), tensor.bytes()});
}

void SafetensorsWriter::write_bytes(std::span<const std::byte> bytes) {
  MINKE_CHECK(next_ < order_.size(), "more tensors than announced");
  const uint64_t expected = order_[next_].bytes();
  written_ += bytes.size();
  MINKE_CHECK(written_ <= expected, "{}: {} bytes written, {} announced", order_[next_].name,
              written_, expected);
  file_.write(bytes.data(), bytes.size());
  if (written_ == expected) {
    ++next_;
    written_ = 0;
  }
}

void SafetensorsWriter::finish() {
  MINKE_CHECK(next_ == order_.size(), "{} tensors written, {} announced", next_, order_.size());
  file_.commit();
}

CheckpointFolder::CheckpointFolder(const fs::path& path, std::string_view stem)
    : path_(path), stem_(stem) {
  if (!fs::exists(path)) fail("{}: no such file or folder", path.string());
  fs::path file = path;
  if (fs::is_directory(path)) {
    file = path / fmt::format("{}.safetensors", stem);
    const fs::path index = path / fmt::format("{}.safetensors.index.json", stem);
    if (!fs::exists(file)) {
      if (!fs::exists(index)) {
        fail("{}: expected {} or {} in it, found neither", path.string(), file.filename().string(),
             index.filename().string());
      }
      read_index(path, index);
      return;
    }
  }
  const SafetensorsFile& only = files_.try_emplace(file.string(), file).first->second;
  for (const auto& [name, tensor] : only.tensors()) where_.emplace(name, &only);
}

void CheckpointFolder::read_index(const fs::path& folder, const fs::path& index) {
  constexpr uint64_t kMaxIndex = 1 << 28;
  const std::string where = index.string();
  const auto root = parse_json<json>(read_file(index, kMaxIndex), where);
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object() ||
      root["weight_map"].empty()) {
    fail("{}: expected an object with a weight_map from tensors to files", where);
  }
  for (const auto& [name, file] : root["weight_map"].items()) {
    // A shard lies beside its index; a path could name any file of the machine.
    const fs::path shard = file.is_string() ? fs::path(file.get<std::string>()) : fs::path();
    if (shard.extension() != ".safetensors" || shard != shard.filename()) {
      fail("{}: {} is in {}, expected the name of a .safetensors file beside the index", where,
           shown(json(name)), shown(file));
    }
    const auto at = files_.find(shard.string());
    if (at == files_.end()) {
      if (!fs::exists(folder / shard)) {
        fail("{}: no such file, though {} says that {} is in it", (folder / shard).string(), where,
             shown(json(name)));
      }
      files_.try_emplace(shard.string(), folder / shard);
    }
    const SafetensorsFile& in = files_.at(shard.string());
    if (!in.contains(name)) {
      fail("{}: no tensor {}, though {} says that it is here", in.path().string(),
           shown(json(name)), where);
    }
    where_.emplace(name, &in);
  }
  // What the index forgets is still part of the checkpoint: whoever reads it decides.
  for (const auto& [file, shard] : files_) {
    for (const auto& [name, tensor] : shard.tensors()) {
      const auto [at, added] = where_.emplace(name, &shard);
      if (!added && at->second != &shard) {
        fail("{}: {} is also in {}", shard.path().string(), name, at->second->path().string());
      }
    }
  }
}

const SafetensorsFile& CheckpointFolder::file_of(std::string_view name) const {
  const auto found = where_.find(name);
  if (found == where_.end()) fail("{}: no tensor {}", path_.string(), name);
  return *found->second;
}

}  // namespace minke::checkpoint
