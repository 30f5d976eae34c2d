// A disk that is soon full: a tmpfs of a size of the test's choice, where one can be mounted
// (mounting needs root). A test that cannot have it says so:
//
//   SmallDisk disk(64 << 10);
//   if (!disk.mounted()) GTEST_SKIP() << disk.why_not();
#pragma once

#include <fmt/format.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/file.h"

namespace minke {

class SmallDisk {
 public:
  explicit SmallDisk(size_t bytes) {
    const std::string options = fmt::format("size={}", bytes);
    if (::mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, options.c_str()) != 0) {
      why_not_ = fmt::format("no tmpfs can be mounted here: {}", std::strerror(errno));
    }
  }
  ~SmallDisk() {
    if (mounted()) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return why_not_.empty(); }
  const std::string& why_not() const { return why_not_; }
  const fs::path& path() const { return folder_.path(); }
  fs::path operator/(const fs::path& name) const { return path() / name; }

  // From now on nobody may write, root included.
  void make_read_only() {
    const int result = ::mount("tmpfs", path().c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr);
    if (result != 0)
      fail("{}: cannot be made read-only: {}", path().string(), std::strerror(errno));
  }

 private:
  TemporaryFolder folder_;
  std::string why_not_;
};

}  // namespace minke
