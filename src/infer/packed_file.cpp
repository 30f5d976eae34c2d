#include "infer/packed_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "checkpoint/hf_config.h"

namespace minke::infer {
namespace {

// The packed bytes, then the hash of each kChunk of them, then the hash of those hashes. Another
// layout of operands is another kFormat.
constexpr std::string_view kFormat = "minke packed 2";
constexpr size_t kChunk = size_t{16} << 20;

size_t chunk_count(size_t bytes) { return (bytes + kChunk - 1) / kChunk; }
size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }
size_t file_size(size_t bytes) {
  return padded(bytes) + (chunk_count(bytes) + 1) * sizeof(uint64_t);
}

constexpr size_t kPage = 4096;

// Pages that are not read again are nobody's while they are a file's.
void give_back(std::span<const std::byte> bytes, int advice) {
  const size_t before = (kPage - reinterpret_cast<uintptr_t>(bytes.data()) % kPage) % kPage;
  if (bytes.size() < before + kPage) return;
  ::madvise(const_cast<std::byte*>(bytes.data()) + before, (bytes.size() - before) / kPage * kPage,
            advice);
}

// What two checkpoints of one architecture differ in, even where a copy or an image gave their
// files the same names, sizes and times.
template <typename Use>
void for_each_sample(std::span<const std::byte> bytes, Use&& use) {
  constexpr size_t kSample = 4096, kStride = size_t{64} << 20;
  for (size_t at = 0; at < bytes.size(); at += kStride) {
    use(bytes.subspan(at, std::min(kSample, bytes.size() - at)));
  }
  use(bytes.last(std::min(kSample, bytes.size())));
}

// Has these pages read, and no others: a fault would read what follows them too, which with samples
// of all tensors is most of a file.
void ask_for(std::span<const std::byte> bytes) {
  const size_t before = reinterpret_cast<uintptr_t>(bytes.data()) % kPage;
  ::madvise(const_cast<std::byte*>(bytes.data()) - before, bytes.size() + before, MADV_WILLNEED);
}

std::string key_of(const checkpoint::CheckpointFolder& files, const model::Transformer& model) {
  Hasher hasher;
  hasher.add(kFormat);
  hasher.add(checkpoint::config_text({model.config()}));
  for (const auto& [name, file] : files.tensors()) {
    for_each_sample(file->stored(name).span(), ask_for);
  }
  for (const auto& [name, file] : files.tensors()) {
    const checkpoint::StoredTensor& tensor = file->stored(name);
    struct stat of {};
    if (::stat(file->path().c_str(), &of) != 0) {
      fail("{}: {}", file->path().string(), std::strerror(errno));
    }
    std::string entry =
        fmt::format("{} {} {} {} {}.{}", name, tensor.dtype, file->path().filename().string(),
                    of.st_size, of.st_mtim.tv_sec, of.st_mtim.tv_nsec);
    for (const int64_t size : tensor.shape) entry += fmt::format(" {}", size);
    hasher.add(entry);
    for_each_sample(tensor.span(), [&](std::span<const std::byte> sample) {
      hasher.add(sample.data(), sample.size());
    });
    give_back(tensor.span(), MADV_DONTNEED);
  }
  return hasher.hex();
}

std::string hash_of(const std::string& text) {
  Hasher hasher;
  hasher.add(text);
  return hasher.hex();
}

fs::path cache_folder(const fs::path& folder) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache == nullptr && home == nullptr) {
    fail(
        "{}: cannot be written, and neither XDG_CACHE_HOME nor HOME names another place for its "
        "packed weights",
        folder.string());
  }
  fs::path other = (cache != nullptr ? fs::path(cache) : fs::path(home) / ".cache") / "minke";
  make_writable_folder(other);
  return other;
}

// Files beside `path` that are of the same checkpoint and precision, and of other weights: names
// differ in the last part. Who has one mapped keeps it.
void remove_older(const fs::path& path) {
  const std::string name = path.filename();
  const std::string_view same = std::string_view(name).substr(0, name.rfind('-') + 1);
  for (const auto& entry : fs::directory_iterator(path.parent_path())) {
    const std::string other = entry.path().filename();
    if (!other.starts_with(same) || !other.ends_with(".minke") || other == name) continue;
    std::error_code error;
    fs::remove(entry.path(), error);
    log::info("{}: packed from weights that are no longer there: {}", entry.path().string(),
              error ? error.message() : "removed");
  }
}

// The hashes of all chunks, and of those.
std::vector<uint64_t> hashes_of(const std::byte* data, size_t bytes, const char* doing) {
  std::vector<uint64_t> out(chunk_count(bytes) + 1);
  Progress progress(doing, bytes, Progress::Unit::kBytes);
  parallel_for(static_cast<int64_t>(chunk_count(bytes)), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const size_t at = static_cast<size_t>(i) * kChunk;
      out[static_cast<size_t>(i)] = hash64(data + at, std::min(kChunk, bytes - at));
      progress.add(std::min(kChunk, bytes - at));
    }
  });
  out.back() = hash64(out.data(), (out.size() - 1) * sizeof(uint64_t));
  return out;
}

// Large pages, where the system has them for files: it looks up 512 times fewer of them, and reads
// and hands out the file in pieces of that size.
void ask_for_large_pages(void* map, size_t bytes) { ::madvise(map, bytes, MADV_HUGEPAGE); }

}  // namespace

fs::path PackedFile::path_of(const fs::path& folder, const checkpoint::CheckpointFolder& files,
                             const model::Transformer& model) {
  std::string name =
      fmt::format("packed-{}-{}-", files.stem(), name_of(dtype_of_precision(model.precision())));
  const std::string key = key_of(files, model) + ".minke";
  if (::access(folder.c_str(), W_OK) == 0) return folder / (name + key);
  name += hash_of(fs::canonical(folder).string()) + "-";
  return cache_folder(folder) / (name + key);
}

PackedFile::PackedFile(const fs::path& path, model::Transformer& model) : path_(path) {
  const size_t bytes = model.operand_bytes();
  if (!open(path_, bytes)) {
    remove_older(path_);
    make(path_, model, bytes);
    MINKE_CHECK(open(path_, bytes), "{} differs from what was written", path_.string());
    made_ = true;
  }
  model.place_operands(data_);
}

PackedFile::~PackedFile() { unmap(); }

void PackedFile::unmap() {
  if (data_ != nullptr) ::munmap(data_, size_);
  data_ = nullptr;
}

// False where there is none, or not a whole one.
bool PackedFile::open(const fs::path& path, size_t bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat of {};
  size_ = file_size(bytes);
  const bool whole = ::fstat(fd, &of) == 0 && static_cast<size_t>(of.st_size) == size_;
  void* map = whole ? ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
  ::close(fd);
  if (map == MAP_FAILED) {
    log::warn("{} is not whole: it is made again", path.string());
    return false;
  }
  data_ = static_cast<std::byte*>(map);
  ask_for_large_pages(data_, size_);
  const std::vector<uint64_t> hashes = hashes_of(data_, bytes, "checking packed weights");
  if (std::memcmp(hashes.data(), data_ + padded(bytes), hashes.size() * sizeof(uint64_t)) != 0) {
    log::warn("{} is damaged: it is made again", path.string());
    unmap();
    return false;
  }
  return true;
}

namespace {

// A file that is removed unless it was kept.
struct Temporary {
  fs::path path;
  bool kept = false;
  ~Temporary() {
    if (!kept) ::unlink(path.c_str());
  }
};

}  // namespace

void PackedFile::make(const fs::path& path, model::Transformer& model, size_t bytes) {
  size_ = file_size(bytes);
  remove_strays(path.parent_path(), "packed-", ".minke.");
  const uint64_t left = free_disk_bytes(path.parent_path());
  if (left < size_) {
    fail("{}: packed weights take {}, and {} of the disk is left", path.string(),
         format_bytes(static_cast<double>(size_)), format_bytes(static_cast<double>(left)));
  }
  Temporary temporary{path.string() + fmt::format(".{}", ::getpid())};
  const auto give_up = [&](const char* what) {
    fail("{}: cannot {}: {}", temporary.path.string(), what, std::strerror(errno));
  };
  const int fd = ::open(temporary.path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) give_up("be made");
  // Room for all of it: a full disk is an error here, and not a fault while it is filled.
  const int room = ::posix_fallocate(fd, 0, static_cast<off_t>(size_));
  if (room != 0) {
    ::close(fd);
    errno = room;
    give_up("have room");
  }
  void* map = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) give_up("be mapped");
  data_ = static_cast<std::byte*>(map);
  ask_for_large_pages(data_, size_);
  model.place_operands(data_);
  {
    Progress progress("packing weights, once", bytes, Progress::Unit::kBytes);
    model.pack_operands([&](const model::Weight& weight) {
      progress.add(weight.packed_size(model.precision(), false));
      for (const model::Piece& piece : weight.pieces()) {
        using Kind = model::Weight::Kind;
        if (weight.kind() != Kind::kLinear && weight.kind() != Kind::kHead) continue;
        give_back({static_cast<const std::byte*>(piece.value.raw()), piece.value.bytes()},
                  MADV_PAGEOUT);
      }
    });
  }
  const std::vector<uint64_t> hashes = hashes_of(data_, bytes, "hashing packed weights");
  std::memcpy(data_ + padded(bytes), hashes.data(), hashes.size() * sizeof(uint64_t));
  const bool synced = ::msync(data_, size_, MS_SYNC) == 0 && ::fsync(fd) == 0;
  unmap();
  ::close(fd);
  if (!synced || ::rename(temporary.path.c_str(), path.c_str()) != 0) give_up("be written");
  temporary.kept = true;
}

}  // namespace minke::infer
