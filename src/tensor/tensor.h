// Tensor: a view of numbers in memory (contiguous, row-major). Buffer: their owner. Arena: memory
// handed out in order and given back all at once, which can also only count.
//
// Names of tensors end in their shape, outermost dimension first:
//   T tokens (rows of all sequences, one after the other)   B sequences   S positions of a sequence
//   D hidden size      H heads          E experts       K experts chosen for a token
//   F expert width     V vocabulary     R KV latent rank   Q query latent rank
//   N outputs, K inputs of a linear layer where no expert is in sight; M rows of a product
// For example x_TD, w_EFD, gate_weight_TK.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "tensor/number.h"

namespace minke {

enum class DType : uint8_t { kF32, kBF16, kE4M3, kF64, kI64, kI32, kU8, kI8 };

size_t size_of(DType dtype);
std::string_view name_of(DType dtype);  // as safetensors spells it: F32, BF16, F8_E4M3, ...

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kF32;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::kBF16;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::kF64;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::kI64;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::kI32;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::kU8;
}

class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const {
    MINKE_DCHECK(i >= 0 && i < rank_);
    return dims_[static_cast<size_t>(i)];
  }
  int64_t count() const;  // product of the dimensions; 1 for a scalar
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

std::string to_string(const Shape& shape);  // [2, 3]

// A view; copying it copies no numbers, and like a pointer it does not make them const.
class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, DType dtype, Shape shape) : data_(data), dtype_(dtype), shape_(shape) {}
  template <typename T>
  Tensor(T* data, Shape shape)
      : Tensor(const_cast<std::remove_const_t<T>*>(data), dtype_of<std::remove_const_t<T>>(),
               shape) {}

  bool empty() const { return shape_.rank() == 0; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t count() const { return shape_.count(); }
  size_t bytes() const { return static_cast<size_t>(count()) * size_of(dtype_); }
  void* raw() const { return data_; }

  template <typename T>
  T* data() const {
    MINKE_CHECK(dtype_of<T>() == dtype_, "tensor holds {}", name_of(dtype_));
    return static_cast<T*>(data_);
  }
  template <typename T>
  std::span<T> span() const {
    return {data<T>(), static_cast<size_t>(count())};
  }

  // Rows [begin, begin + rows) of the outermost dimension.
  Tensor rows(int64_t begin, int64_t rows) const;
  // The i-th slice along the outermost dimension: one dimension less.
  Tensor operator[](int64_t i) const;
  // The same numbers in another shape of the same count.
  Tensor as(Shape shape) const;

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Shape shape_;
};

// Owns memory aligned to 64 bytes (2 MiB pages asked for where it pays). Zeroed when made.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
    other.size_ = 0;
  }
  Buffer& operator=(Buffer&& other) noexcept;
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A tensor with its own memory.
class OwnedTensor : public Tensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(DType dtype, Shape shape);

 private:
  OwnedTensor(Buffer buffer, DType dtype, Shape shape)
      : Tensor(buffer.data(), dtype, shape), buffer_(std::move(buffer)) {}

  Buffer buffer_;
};

// Hands out tensors one after the other; a Mark gives back all that came after it. An arena made
// with kCounting hands out tensors without memory: the same calls then measure what they would
// take.
class Arena {
 public:
  struct Counting {};

  explicit Arena(size_t capacity);  // Error when the address space cannot be had
  explicit Arena(Counting) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Uninitialised numbers. MINKE_CHECK when the capacity is exceeded.
  Tensor make(DType dtype, Shape shape);

  size_t used() const { return used_; }
  size_t peak() const { return peak_; }
  size_t capacity() const { return buffer_.size(); }
  bool counting() const { return buffer_.size() == 0; }
  void release(size_t mark);  // mark: what used() was

  // Gives back at the end of a scope what the scope took.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.used()) {}
    ~Scope() { arena_.release(mark_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t mark_;
  };

 private:
  Buffer buffer_;
  size_t used_ = 0, peak_ = 0;
};

}  // namespace minke
