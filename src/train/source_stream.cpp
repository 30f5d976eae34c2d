#include "train/source_stream.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace minke::train {
namespace {

constexpr size_t kCompressedChunk = size_t{1} << 17;

class PlainStream : public ByteStream {
 public:
  explicit PlainStream(fs::path path) : path_(std::move(path)) {
    if (!fs::exists(path_)) fail("{}: no such file", name());
    if (fs::is_directory(path_)) fail("{}: is a folder, expected a file", name());
    fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) fail("{}: cannot open: {}", name(), std::strerror(errno));
  }
  ~PlainStream() override { ::close(fd_); }
  PlainStream(const PlainStream&) = delete;
  PlainStream& operator=(const PlainStream&) = delete;

  size_t read(std::span<char> out) override {
    for (;;) {
      const ssize_t n = ::read(fd_, out.data(), out.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("{}: cannot read: {}", name(), std::strerror(errno));
      bytes_ += static_cast<uint64_t>(n);
      return static_cast<size_t>(n);
    }
  }
  uint64_t file_bytes() const override { return bytes_; }
  std::string name() const { return path_.string(); }

 private:
  fs::path path_;
  int fd_ = -1;
  uint64_t bytes_ = 0;
};

// One member or several, one after the other, as gzip allows.
class GzipStream : public ByteStream {
 public:
  explicit GzipStream(const fs::path& path) : file_(path), input_(kCompressedChunk) {
    constexpr int kGzipOnly = 15 + 16;
    MINKE_CHECK(inflateInit2(&state_, kGzipOnly) == Z_OK);
  }
  ~GzipStream() override { inflateEnd(&state_); }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  size_t read(std::span<char> out) override {
    state_.next_out = reinterpret_cast<Bytef*>(out.data());
    state_.avail_out = static_cast<uInt>(std::min<size_t>(out.size(), kCompressedChunk));
    const uInt room = state_.avail_out;
    while (state_.avail_out == room) {
      if (state_.avail_in == 0) {
        const size_t n = file_.read(input_);
        state_.next_in = reinterpret_cast<Bytef*>(input_.data());
        state_.avail_in = static_cast<uInt>(n);
        if (n == 0) {
          if (inside_ || !any_) fail("{}: gzip archive is cut short", file_.name());
          return 0;
        }
      }
      if (!inside_ && any_) MINKE_CHECK(inflateReset(&state_) == Z_OK);
      inside_ = any_ = true;
      const int result = inflate(&state_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        inside_ = false;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        fail("{}: damaged gzip archive: {}", file_.name(),
             state_.msg != nullptr ? state_.msg : "not understood");
      }
    }
    return room - state_.avail_out;
  }
  uint64_t file_bytes() const override { return file_.file_bytes(); }

 private:
  PlainStream file_;
  std::vector<char> input_;
  z_stream state_{};
  bool inside_ = false;  // a member has begun and not ended
  bool any_ = false;
};

class ZstdStream : public ByteStream {
 public:
  explicit ZstdStream(const fs::path& path)
      : file_(path), input_(kCompressedChunk), state_(ZSTD_createDStream(), ZSTD_freeDStream) {
    // Archives made with --long say how much memory they want: up to 2 GiB is granted.
    constexpr int kWindowLog = 31;
    MINKE_CHECK(state_ != nullptr && ZSTD_isError(ZSTD_DCtx_setParameter(
                                         state_.get(), ZSTD_d_windowLogMax, kWindowLog)) == 0);
  }

  size_t read(std::span<char> out) override {
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    while (output.pos == 0) {
      // Output may still wait inside when all input is taken.
      if (at_.pos == at_.size && !full_) {
        at_ = {input_.data(), file_.read(input_), 0};
        if (at_.size == 0) {
          if (expects_ != 0) fail("{}: zstd archive is cut short", file_.name());
          return 0;
        }
      }
      expects_ = ZSTD_decompressStream(state_.get(), &output, &at_);
      if (ZSTD_isError(expects_) != 0) {
        fail("{}: damaged zstd archive: {}", file_.name(), ZSTD_getErrorName(expects_));
      }
      full_ = output.pos == output.size && expects_ != 0;
    }
    return output.pos;
  }
  uint64_t file_bytes() const override { return file_.file_bytes(); }

 private:
  PlainStream file_;
  std::vector<char> input_;
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> state_;
  ZSTD_inBuffer at_ = {nullptr, 0, 0};
  size_t expects_ = 1;  // not 0: a frame has not ended, or none has begun
  bool full_ = false;
};

}  // namespace

std::unique_ptr<ByteStream> open_stream(const fs::path& path, Compression compression) {
  switch (compression) {
    case Compression::kNone:
      return std::make_unique<PlainStream>(path);
    case Compression::kGzip:
      return std::make_unique<GzipStream>(path);
    case Compression::kZstd:
      return std::make_unique<ZstdStream>(path);
  }
  MINKE_CHECK(false);
}

}  // namespace minke::train
