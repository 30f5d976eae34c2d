#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>

#include "base/error.h"

namespace minke {
namespace {

std::string why() { return std::strerror(errno); }

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("{}: cannot open the folder to sync it: {}", folder.string(), why());
  const int result = ::fsync(fd);
  ::close(fd);
  // Some file systems refuse to sync a folder (EINVAL); there is nothing more to do on those.
  if (result != 0 && errno != EINVAL) {
    fail("{}: cannot sync the folder: {}", folder.string(), why());
  }
}

fs::path parent_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

fs::path without_trailing_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

fs::path beside(const fs::path& path, std::string_view suffix) {
  return parent_of(path) / ("." + path.filename().string() + std::string(suffix));
}

// Beside a folder, names that nobody else gives.
constexpr std::string_view kFresh = ".minke-new", kOld = ".minke-old";

// Whether the two changed their names in one step, so that whoever reads finds one or the other.
bool exchanged(const fs::path& a, const fs::path& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

}  // namespace

std::string read_file(const fs::path& path, uint64_t max_bytes) {
  std::error_code ec;
  const fs::file_status status = fs::status(path, ec);
  if (!fs::exists(status)) fail("{}: no such file", path.string());
  if (fs::is_directory(status)) fail("{}: is a folder, expected a file", path.string());
  std::ifstream in(path, std::ios::binary);
  if (!in) fail("{}: cannot open: {}", path.string(), why());
  std::string out;
  constexpr size_t kChunk = 1 << 20;
  for (;;) {
    const size_t at = out.size();
    out.resize(at + kChunk);
    in.read(out.data() + at, kChunk);
    out.resize(at + static_cast<size_t>(in.gcount()));
    if (out.size() > max_bytes) {
      fail("{}: larger than the {} bytes that such a file may have", path.string(), max_bytes);
    }
    if (in.eof()) return out;
    if (!in) fail("{}: cannot read: {}", path.string(), why());
  }
}

void remove_strays(const fs::path& folder, std::string_view begin, std::string_view marker) {
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(folder, ec)) {
    const std::string name = entry.path().filename().string();
    const size_t at = name.rfind(marker);
    if (!name.starts_with(begin) || at == std::string::npos || at < begin.size()) continue;
    const auto pid =
        static_cast<pid_t>(std::strtol(name.c_str() + at + marker.size(), nullptr, 10));
    if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) ::unlink(entry.path().c_str());
  }
}

AtomicFile::AtomicFile(fs::path path)
    : path_(std::move(path)), temporary_(beside(path_, fmt::format(".tmp.{}", ::getpid()))) {
  // A rename would put a file in the place of a device.
  std::error_code ec;
  const fs::file_status status = fs::status(path_, ec);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    fail("{}: is not a file, and cannot be replaced by one", path_.string());
  }
  remove_strays(parent_of(path_), "." + path_.filename().string(), ".tmp.");
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("{}: cannot write: {}", path_.string(), why());
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  size_t left = bytes;
  while (left > 0) {
    const ssize_t n = ::write(fd_, at, std::min(left, size_t{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("{}: cannot write {} bytes: {}", path_.string(), bytes, why());
    at += n;
    left -= static_cast<size_t>(n);
  }
  bytes_ += bytes;
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) fail("{}: cannot sync: {}", path_.string(), why());
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const std::string reason = why();
    ::unlink(temporary_.c_str());
    fail("{}: cannot finish writing: {}", path_.string(), reason);
  }
  sync_folder(parent_of(path_));
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

// Sequence: fill .name.minke-new; exchange it with name, or, where the file system cannot, rename
// name to .name.minke-old and .name.minke-new to name; remove what was there before.
void write_folder_atomic(const fs::path& folder, const std::function<void(const fs::path&)>& fill) {
  const fs::path target = without_trailing_slash(folder);
  recover_folder(target);
  const fs::path fresh = beside(target, kFresh), old = beside(target, kOld);
  std::error_code ec;
  try {
    make_writable_folder(fresh);
    fill(fresh);
    for (const auto& entry : fs::directory_iterator(fresh)) {
      const int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
      const bool synced = fd >= 0 && ::fsync(fd) == 0;
      if (fd >= 0) ::close(fd);
      if (!synced) fail("{}: cannot sync: {}", entry.path().string(), why());
    }
    sync_folder(fresh);
    if (!exchanged(fresh, target)) {
      const bool replaces = fs::exists(target);
      if (replaces && ::rename(target.c_str(), old.c_str()) != 0) {
        fail("{}: cannot rename: {}", target.string(), why());
      }
      if (::rename(fresh.c_str(), target.c_str()) != 0) {
        const std::string reason = why();
        if (replaces) ::rename(old.c_str(), target.c_str());
        fail("{}: cannot rename into place: {}", target.string(), reason);
      }
    }
    sync_folder(parent_of(target));
  } catch (...) {
    fs::remove_all(fresh, ec);
    throw;
  }
  fs::remove_all(fresh, ec);
  fs::remove_all(old, ec);
}

fs::path last_good_folder(const fs::path& folder) {
  const fs::path target = without_trailing_slash(folder);
  const fs::path fresh = beside(target, kFresh), old = beside(target, kOld);
  // Without its name while the old one has its own: a crash came between the two renames, and the
  // new folder is complete.
  if (fs::exists(target) || !fs::exists(old)) return folder;
  return fs::exists(fresh) ? fresh : old;
}

void recover_folder(const fs::path& folder) {
  const fs::path target = without_trailing_slash(folder);
  if (const fs::path good = last_good_folder(target); good != target) fs::rename(good, target);
  std::error_code ec;
  fs::remove_all(beside(target, kOld), ec);
  fs::remove_all(beside(target, kFresh), ec);
}

void recover_folders_in(const fs::path& parent) {
  if (!fs::exists(parent)) return;
  std::set<fs::path> found;
  for (const auto& entry : fs::directory_iterator(parent)) {
    const std::string name = entry.path().filename().string();
    for (const std::string_view suffix : {kFresh, kOld}) {
      if (name.size() <= suffix.size() + 1 || name[0] != '.' || !name.ends_with(suffix)) continue;
      found.insert(parent / name.substr(1, name.size() - suffix.size() - 1));
    }
  }
  for (const fs::path& folder : found) recover_folder(folder);
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("{}: cannot open: {}", path.string(), why());
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    fail("{}: not a regular file", path.string());
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* map = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
      const std::string reason = why();
      ::close(fd);
      fail("{}: cannot map {} bytes: {}", path.string(), size_, reason);
    }
    data_ = static_cast<const std::byte*>(map);
  }
  ::close(fd);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void make_writable_folder(const fs::path& folder) {
  std::error_code ec;
  fs::create_directories(folder, ec);
  if (!fs::is_directory(folder)) {
    fail("{}: cannot make the folder: {}", folder.string(),
         ec ? ec.message() : "a file stands there");
  }
  const fs::path probe = folder / fmt::format(".probe.{}", ::getpid());
  const int fd = ::open(probe.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) fail("{}: the folder cannot be written: {}", folder.string(), why());
  ::close(fd);
  ::unlink(probe.c_str());
}

FolderLock::FolderLock(const fs::path& folder) {
  const fs::path path = folder / ".lock";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("{}: cannot make the lock: {}", path.string(), why());
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd_);
    fail("{}: another run is using this folder; wait for it or choose another", folder.string());
  }
}

FolderLock::~FolderLock() { ::close(fd_); }

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "minke.XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) fail("{}: no temporary folder", name);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

uint64_t free_disk_bytes(const fs::path& folder) {
  std::error_code ec;
  fs::path at = fs::absolute(folder, ec);
  while (!fs::exists(at) && at.has_relative_path()) at = at.parent_path();
  const fs::space_info info = fs::space(at, ec);
  if (ec) fail("{}: cannot read the free disk space: {}", folder.string(), ec.message());
  return info.available;
}

uint64_t free_memory_bytes() {
  uint64_t available = UINT64_MAX;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key; meminfo >> key;) {
    uint64_t kib = 0;
    meminfo >> kib;
    if (key == "MemAvailable:") available = kib * 1024;
    meminfo.ignore(256, '\n');
  }
  const auto read_number = [](const char* path) -> uint64_t {
    std::ifstream in(path);
    uint64_t value = UINT64_MAX;
    return in >> value ? value : UINT64_MAX;
  };
  const uint64_t limit = read_number("/sys/fs/cgroup/memory.max");
  uint64_t used = read_number("/sys/fs/cgroup/memory.current");
  if (limit != UINT64_MAX && used != UINT64_MAX) {
    // Pages of files are counted there, and given back when memory is asked for.
    std::ifstream stat("/sys/fs/cgroup/memory.stat");
    uint64_t bytes = 0;
    for (std::string key; stat >> key >> bytes;) {
      if (key == "inactive_file" || key == "active_file") used -= std::min(used, bytes);
    }
    available = std::min(available, limit > used ? limit - used : 0);
  }
  return available;
}

uint64_t resident_memory_bytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t all = 0, resident = 0;
  statm >> all >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

uint64_t large_page_bytes(std::span<const std::byte> bytes, const fs::path& smaps) {
  const auto from = reinterpret_cast<uintptr_t>(bytes.data()), to = from + bytes.size();
  std::ifstream in(smaps);
  uint64_t total = 0;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    uintptr_t begin = 0, end = 0;
    uint64_t kib = 0;
    char key[32];
    if (std::sscanf(line.c_str(), "%zx-%zx ", &begin, &end) == 2) {
      inside = begin < to && end > from;
    } else if (inside && std::sscanf(line.c_str(), "%31[A-Za-z]: %zu kB", key, &kib) == 2) {
      const std::string_view what = key;
      if (what == "AnonHugePages" || what == "FilePmdMapped" || what == "ShmemPmdMapped") {
        total += kib * 1024;
      }
    }
  }
  return std::min<uint64_t>(total, bytes.size());
}

}  // namespace minke
