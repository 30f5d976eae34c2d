#include "checkpoint/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "tensor/number.h"

namespace minke::checkpoint {
namespace {

constexpr uint64_t kAlignment = 32;
// Types of values, as the format numbers them.
constexpr uint32_t kU32 = 4, kI32 = 5, kF32Value = 6, kBool = 7, kString = 8, kArray = 9;

template <typename T>
void append(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof bytes);
}

void append_string(std::string& out, std::string_view text) {
  append(out, uint64_t{text.size()});
  out += text;
}

uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Nearest even, as the hardware would.
uint16_t f16_bits(float x) {
  constexpr float kLargest = 65504;
  if (!(std::fabs(x) <= kLargest)) fail("{} is beyond what F16 holds ({})", x, kLargest);
  return std::bit_cast<uint16_t>(static_cast<_Float16>(x));
}

// Puts a value where `to` is, which moves on.
template <typename T>
void put(char*& to, T value) {
  std::memcpy(to, &value, sizeof value);
  to += sizeof value;
}

// To nearest, halves away from zero; |x| < 2^23.
int rounded(float x) {
  const int whole = static_cast<int>(x);
  const float rest = x - static_cast<float>(whole);
  return whole + (rest >= 0.5F ? 1 : 0) - (rest <= -0.5F ? 1 : 0);
}

// As ggml's quantize_row_q8_0_ref.
void put_q8_block(char*& to, std::span<const float> x) {
  float amax = 0;
  for (const float value : x) {
    if (std::isnan(value)) fail("found NaN, which Q8_0 does not hold");
    amax = std::max(amax, std::fabs(value));
  }
  const float scale = amax / 127;
  const float inverse = scale == 0 ? 0 : 1 / scale;
  put(to, f16_bits(scale));
  for (const float value : x) put(to, static_cast<int8_t>(rounded(value * inverse)));
}

}  // namespace

uint64_t gguf_bytes(GgufType type, int64_t count) {
  const auto numbers = static_cast<uint64_t>(count);
  switch (type) {
    case GgufType::kF32:
      return numbers * 4;
    case GgufType::kQ8:
      MINKE_CHECK(count % kQ8Block == 0);
      return numbers / kQ8Block * (sizeof(uint16_t) + kQ8Block);
    default:
      return numbers * 2;
  }
}

void append_gguf(std::string& out, std::span<const float> x, GgufType type) {
  const size_t before = out.size();
  out.resize(before + gguf_bytes(type, std::ssize(x)));
  char* to = out.data() + before;
  switch (type) {
    case GgufType::kF32:
      for (const float value : x) put(to, value);
      return;
    case GgufType::kBF16:
      for (const float value : x) put(to, bf16(value).bits);
      return;
    case GgufType::kF16:
      for (const float value : x) put(to, f16_bits(value));
      return;
    case GgufType::kQ8:
      for (size_t at = 0; at < x.size(); at += kQ8Block) put_q8_block(to, x.subspan(at, kQ8Block));
  }
}

uint64_t GgufTensor::bytes() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return gguf_bytes(type, count);
}

void GgufMetadata::begin(const std::string& key, uint32_t type) {
  append_string(bytes_, key);
  append(bytes_, type);
  ++count_;
}
void GgufMetadata::add(const std::string& key, uint32_t value) {
  begin(key, kU32);
  append(bytes_, value);
}
void GgufMetadata::add(const std::string& key, float value) {
  begin(key, kF32Value);
  append(bytes_, value);
}
void GgufMetadata::add(const std::string& key, bool value) {
  begin(key, kBool);
  append(bytes_, static_cast<uint8_t>(value));
}
void GgufMetadata::add(const std::string& key, std::string_view value) {
  begin(key, kString);
  append_string(bytes_, value);
}
void GgufMetadata::add(const std::string& key, const std::vector<std::string>& values) {
  begin(key, kArray);
  append(bytes_, kString);
  append(bytes_, uint64_t{values.size()});
  for (const std::string& value : values) append_string(bytes_, value);
}
void GgufMetadata::add(const std::string& key, const std::vector<int32_t>& values) {
  begin(key, kArray);
  append(bytes_, kI32);
  append(bytes_, uint64_t{values.size()});
  for (const int32_t value : values) append(bytes_, value);
}

GgufWriter::GgufWriter(const fs::path& path, const GgufMetadata& metadata,
                       std::vector<GgufTensor> tensors)
    : file_(path), tensors_(std::move(tensors)) {
  constexpr uint32_t kVersion = 3;
  std::string header = "GGUF";
  append(header, kVersion);
  append(header, uint64_t{tensors_.size()});
  append(header, metadata.count());
  header += metadata.bytes();
  uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors_) {
    append_string(header, tensor.name);
    append(header, static_cast<uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) {
      append(header, static_cast<uint64_t>(*size));
    }
    append(header, static_cast<uint32_t>(tensor.type));
    append(header, offset);
    offset += aligned(tensor.bytes());
  }
  file_.write(header);
  pad();
}

void GgufWriter::pad() {
  const std::string zeros(aligned(file_.bytes()) - file_.bytes(), '\0');
  file_.write(zeros);
}

void GgufWriter::write(std::string_view bytes) {
  MINKE_CHECK(next_ < tensors_.size(), "more tensors than announced");
  const GgufTensor& tensor = tensors_[next_];
  written_ += bytes.size();
  MINKE_CHECK(written_ <= tensor.bytes(), "{}: more bytes than announced", tensor.name);
  file_.write(bytes);
  if (written_ < tensor.bytes()) return;
  ++next_;
  written_ = 0;
  pad();
}

void GgufWriter::finish() {
  MINKE_CHECK(next_ == tensors_.size(), "{} tensors written, {} announced", next_, tensors_.size());
  file_.commit();
}

}  // namespace minke::checkpoint
