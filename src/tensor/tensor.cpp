#include "tensor/tensor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace minke {

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kE4M3:
    case DType::kU8:
    case DType::kI8:
      return 1;
  }
  MINKE_CHECK(false, "dtype {}", static_cast<int>(dtype));
}

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kI64:
      return "I64";
    case DType::kF32:
      return "F32";
    case DType::kI32:
      return "I32";
    case DType::kBF16:
      return "BF16";
    case DType::kE4M3:
      return "F8_E4M3";
    case DType::kU8:
      return "U8";
    case DType::kI8:
      return "I8";
  }
  MINKE_CHECK(false, "dtype {}", static_cast<int>(dtype));
}

Shape::Shape(std::initializer_list<int64_t> dims)
    : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  MINKE_CHECK(dims.size() <= kMaxRank, "rank {}", dims.size());
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::count() const {
  int64_t n = 1;
  for (const int64_t d : dims()) n *= d;
  return n;
}

std::string to_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape.dims().begin(), shape.dims().end(), ", "));
}

Tensor Tensor::rows(int64_t begin, int64_t rows) const {
  MINKE_CHECK(rank() >= 1 && begin >= 0 && rows >= 0 && begin + rows <= dim(0),
              "rows [{}, {}) of {}", begin, begin + rows, to_string(shape_));
  std::array<int64_t, Shape::kMaxRank> dims{};
  std::copy(shape_.dims().begin(), shape_.dims().end(), dims.begin());
  dims[0] = rows;
  const size_t row_bytes = dim(0) == 0 ? 0 : bytes() / static_cast<size_t>(dim(0));
  return {static_cast<std::byte*>(data_) + row_bytes * static_cast<size_t>(begin), dtype_,
          Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(rank())))};
}

Tensor Tensor::operator[](int64_t i) const {
  const Tensor row = rows(i, 1);
  return {row.raw(), dtype_, Shape(shape_.dims().subspan(1))};
}

Tensor Tensor::as(Shape shape) const {
  MINKE_CHECK(shape.count() == count(), "{} as {}", to_string(shape_), to_string(shape));
  return {data_, dtype_, shape};
}

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

Buffer::Buffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  void* map = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) fail("cannot have {} bytes of memory: {}", bytes, std::strerror(errno));
  if (bytes >= kHugePage) ::madvise(map, bytes, MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(map);
}

Buffer::~Buffer() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

OwnedTensor::OwnedTensor(DType dtype, Shape shape)
    : OwnedTensor(Buffer(static_cast<size_t>(shape.count()) * size_of(dtype)), dtype, shape) {}

Arena::Arena(size_t capacity) : buffer_(std::max(capacity, size_t{64})) {}

Tensor Arena::make(DType dtype, Shape shape) {
  constexpr size_t kAlign = 64;
  const size_t bytes = static_cast<size_t>(shape.count()) * size_of(dtype);
  const size_t begin = used_;
  used_ = (begin + bytes + kAlign - 1) / kAlign * kAlign;
  peak_ = std::max(peak_, used_);
  if (counting()) return {nullptr, dtype, shape};
  MINKE_CHECK(used_ <= capacity() + kAlign && begin + bytes <= capacity(),
              "arena of {} bytes, {} asked for", capacity(), used_);
  return {buffer_.data() + begin, dtype, shape};
}

void Arena::release(size_t mark) {
  MINKE_CHECK(mark <= used_);
  used_ = mark;
}

}  // namespace minke
