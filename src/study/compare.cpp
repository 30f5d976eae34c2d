#include "study/compare.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/rng.h"
#include "base/thread_pool.h"

namespace minke::study {
namespace {

constexpr unsigned char kPadding = 0xa5;  // what the memory between rows is filled with

void put(void* data, DType dtype, int64_t i, double value) {
  if (dtype == DType::kBF16) {
    static_cast<bf16*>(data)[i] = bf16(static_cast<float>(value));
  } else {
    MINKE_CHECK(dtype == DType::kF32);
    static_cast<float*>(data)[i] = static_cast<float>(value);
  }
}

double get(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kBF16) {
    return static_cast<double>(static_cast<float>(static_cast<const bf16*>(data)[i]));
  }
  MINKE_CHECK(dtype == DType::kF32);
  return static_cast<double>(static_cast<const float*>(data)[i]);
}

void fill_randomly(const ops::Matrix& x, std::string_view name, double deviation) {
  constexpr int64_t kRows = 64;
  parallel_for(x.rows, kRows, [&](int64_t begin, int64_t end) {
    Rng rng(stream_key(1, static_cast<uint64_t>(begin), name));
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < x.cols; ++c) {
        put(x.data, x.dtype, r * x.stride + c, deviation * rng.normal());
      }
    }
  });
}

}  // namespace

void copy_bytes(const Tensor& to, const Tensor& from) {
  MINKE_CHECK(to.bytes() == from.bytes());
  if (from.bytes() > 0) std::memcpy(to.raw(), from.raw(), from.bytes());
}

OwnedTensor random_tensor(std::string_view name, DType dtype, Shape shape, double deviation) {
  OwnedTensor x(dtype, shape);
  fill_randomly(x, name, deviation);
  return x;
}

PaddedMatrix::PaddedMatrix(DType dtype, int64_t rows, int64_t cols, int64_t padding)
    : memory_(dtype, {rows, cols + padding}),
      view_(memory_.raw(), dtype, rows, cols, cols + padding) {
  if (memory_.bytes() > 0) std::memset(memory_.raw(), kPadding, memory_.bytes());
}

PaddedMatrix PaddedMatrix::random(std::string_view name, DType dtype, int64_t rows, int64_t cols,
                                  int64_t padding, double deviation) {
  PaddedMatrix x(dtype, rows, cols, padding);
  fill_randomly(x, name, deviation);
  return x;
}

Check PaddedMatrix::padding_check(std::string quantity) const {
  Check check{std::move(quantity) + " padding", 0, 0};
  const size_t width = size_of(view_.dtype);
  for (int64_t r = 0; r < view_.rows; ++r) {
    const auto* row = static_cast<const unsigned char*>(view_.data) +
                      static_cast<size_t>(r * view_.stride) * width;
    for (size_t i = static_cast<size_t>(view_.cols) * width;
         i < static_cast<size_t>(view_.stride) * width; ++i) {
      check.error += row[i] != kPadding ? 1 : 0;
    }
  }
  return check;
}

std::vector<double> magnitudes(std::vector<double> x) {
  for (double& v : x) v = std::abs(v);
  return x;
}

std::vector<double> to_double(const ops::Matrix& x) {
  std::vector<double> out;
  out.reserve(static_cast<size_t>(x.rows * x.cols));
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) out.push_back(get(x.data, x.dtype, r * x.stride + c));
  }
  return out;
}

double roundoff(DType dtype) {
  MINKE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  return dtype == DType::kBF16 ? kRoundoffBF16 : kRoundoffF32;
}

Check compare(std::string quantity, std::span<const double> got, std::span<const double> want,
              std::span<const double> bound) {
  MINKE_CHECK(got.size() == want.size() && bound.size() == want.size(), "{}: {} {} {}", quantity,
              got.size(), want.size(), bound.size());
  Check worst{std::move(quantity), 0, 0};
  double worst_ratio = -1;
  for (size_t i = 0; i < got.size(); ++i) {
    double error = got[i] == want[i] ? 0 : std::abs(got[i] - want[i]);
    if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
    const double ratio = error == 0 ? 0 : error / bound[i];
    if (ratio <= worst_ratio) continue;
    worst_ratio = ratio;
    worst.error = error;
    worst.bound = bound[i];
  }
  return worst;
}

Check compare(std::string quantity, const ops::Matrix& got, std::span<const double> want,
              std::span<const double> bound) {
  return compare(std::move(quantity), to_double(got), want, bound);
}

Check compare_exactly(std::string quantity, std::span<const double> got,
                      std::span<const double> want) {
  MINKE_CHECK(got.size() == want.size(), "{}: {} {}", quantity, got.size(), want.size());
  Check check{std::move(quantity), 0, 0};
  for (size_t i = 0; i < got.size(); ++i) check.error += got[i] == want[i] ? 0 : 1;
  return check;
}

Check compare_exactly(std::string quantity, const ops::Matrix& got, std::span<const double> want) {
  return compare_exactly(std::move(quantity), to_double(got), want);
}

std::string_view short_name(DType dtype) { return dtype == DType::kBF16 ? "bf16" : "f32"; }

}  // namespace minke::study
