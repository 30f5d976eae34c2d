// Files: reading, mapping, writing that never loses the last good version, locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace minke {

namespace fs = std::filesystem;

// The whole file. Error when it cannot be read or is larger than max_bytes.
std::string read_file(const fs::path& path, uint64_t max_bytes = uint64_t{1} << 32);

// Durably replaces `path`: written to a temporary name beside it, synced, renamed, folder synced.
// Whatever stood there before is untouched until the rename, also when the disk is full.
void write_file_atomic(const fs::path& path, std::string_view bytes);

// Removes what processes that are no more left in `folder`: files named `begin`...`marker`PID.
void remove_strays(const fs::path& folder, std::string_view begin, std::string_view marker);

// A file that is written in pieces and appears under its name, whole and synced, only at commit().
// Destroyed before commit(), it leaves nothing behind; of a process that was killed, the next
// AtomicFile of that name removes the rest. Error where the name is a device's or a folder's.
class AtomicFile {
 public:
  explicit AtomicFile(fs::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data, size_t bytes);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  void commit();
  uint64_t bytes() const { return bytes_; }

 private:
  fs::path path_, temporary_;
  int fd_ = -1;
  uint64_t bytes_ = 0;
};

// Durably replaces a folder: `fill` writes into a temporary folder beside it, which then takes its
// name. A crash at any moment leaves the old folder or the new one. For whoever writes `folder`,
// and alone: a train run under its FolderLock.
void write_folder_atomic(const fs::path& folder, const std::function<void(const fs::path&)>& fill);
// Where the last good one is, for whoever reads: under its name, or after some crashes under
// another. Writes nothing.
fs::path last_good_folder(const fs::path& folder);
// Puts that one back under its name and removes what a crash left. For whoever writes `folder`.
void recover_folder(const fs::path& folder);
// The same for all that are in `parent`, also those of which only such a rest is there.
void recover_folders_in(const fs::path& parent);

// A read-only memory map of a whole file; pages are read when touched.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Makes the folder (and its parents) and proves that it can be written; Error if not.
void make_writable_folder(const fs::path& folder);

// Holds `folder`/.lock while it lives; Error when another process holds it.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

// A folder among the system's temporary ones, gone with all that it holds when this is.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }
  fs::path operator/(const fs::path& name) const { return path_ / name; }

 private:
  fs::path path_;
};

uint64_t free_disk_bytes(const fs::path& folder);
// Memory that this process may still use: the smaller of the machine's and the control group's.
uint64_t free_memory_bytes();
// Memory that this process holds now.
uint64_t resident_memory_bytes();
// Of the mappings that `bytes` lie in, as much as large pages map, at most bytes.size(): what is
// mapped in small ones is read less well, since a processor looks up 512 times as many.
uint64_t large_page_bytes(std::span<const std::byte> bytes,
                          const fs::path& smaps = "/proc/self/smaps");

}  // namespace minke
