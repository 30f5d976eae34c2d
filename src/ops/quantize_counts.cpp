#include "ops/quantize_counts.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>

#include "base/thread_pool.h"
#include "ops/chunks.h"

namespace minke::ops {
namespace {

thread_local const char* kind_of_thread = "activations";
std::atomic<bool> counts = false;
std::mutex mutex;
std::map<std::string, QuantizeCounts> by_kind;

void add(const QuantizeCounts& part) {
  const std::scoped_lock lock(mutex);
  QuantizeCounts& sum = by_kind[part.kind];
  const bool first = sum.numbers == 0;
  sum.kind = part.kind;
  sum.numbers += part.numbers;
  sum.saturated += part.saturated;
  sum.underflowed += part.underflowed;
  sum.least_scale = first ? part.least_scale : std::min(sum.least_scale, part.least_scale);
  sum.largest_scale = first ? part.largest_scale : std::max(sum.largest_scale, part.largest_scale);
}

bool is_zero(float x) { return x == 0; }
bool is_zero(bf16 x) { return (x.bits & 0x7fff) == 0; }
bool is_zero(uint8_t code) { return (code & 0x7f) == 0; }
bool is_largest(bf16 number, float largest) { return (number.bits & 0x7fff) == bf16(largest).bits; }
bool is_largest(uint8_t code, float) { return (code & 0x7f) == 0x7e; }

template <typename X, typename Code>
void count_rows(QuantizeCounts& out, const Matrix& x, const Matrix& codes, int64_t begin,
                int64_t end, float largest) {
  for (int64_t r = begin; r < end; ++r) {
    const X* from = static_cast<const X*>(x.data) + r * x.stride;
    const Code* to = static_cast<const Code*>(codes.data) + r * codes.stride;
    for (int64_t c = 0; c < x.cols; ++c) {
      out.saturated += is_largest(to[c], largest) ? 1 : 0;
      out.underflowed += is_zero(to[c]) && !is_zero(from[c]) ? 1 : 0;
    }
    out.numbers += x.cols;
  }
}

}  // namespace

void start_quantize_counts() {
  const std::scoped_lock lock(mutex);
  by_kind.clear();
  counts = true;
}

std::vector<QuantizeCounts> finish_quantize_counts() {
  const std::scoped_lock lock(mutex);
  counts = false;
  std::vector<QuantizeCounts> out;
  for (const auto& [kind, sum] : by_kind) out.push_back(sum);
  return out;
}

QuantizingAs::QuantizingAs(const char* kind) : outer_(kind_of_thread) { kind_of_thread = kind; }
QuantizingAs::~QuantizingAs() { kind_of_thread = outer_; }

bool counts_quantizing() { return counts; }

void count_quantized(const Matrix& x, const Matrix& codes, const float* scale, int64_t stride,
                     int64_t scales, const char* kind, float largest) {
  if (x.rows == 0 || scales == 0) return;
  const bool f32 = x.dtype == DType::kF32, bytes = codes.dtype == DType::kE4M3;
  const auto run = bytes ? (f32 ? count_rows<float, uint8_t> : count_rows<bf16, uint8_t>)
                         : (f32 ? count_rows<float, bf16> : count_rows<bf16, bf16>);
  const std::string name = kind != nullptr ? kind : kind_of_thread;
  parallel_for(x.rows, 64, [&](int64_t begin, int64_t end) {
    QuantizeCounts part{name, 0, 0, 0, scale[begin * stride], scale[begin * stride]};
    run(part, x, codes, begin, end, largest);
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = 0; i < scales; ++i) {
        part.least_scale = std::min(part.least_scale, scale[r * stride + i]);
        part.largest_scale = std::max(part.largest_scale, scale[r * stride + i]);
      }
    }
    add(part);
  });
}

}  // namespace minke::ops
