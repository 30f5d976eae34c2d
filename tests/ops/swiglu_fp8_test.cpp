// SwiGLU with an input that is kept in E4M3: the same bytes as one op after the other.
#include "ops/swiglu_fp8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "isa_test_fixture.h"
#include "ops/elementwise.h"
#include "ops/quantize.h"

namespace minke::ops {
namespace {

OwnedTensor random_bf16(const char* name, int64_t rows, int64_t cols) {
  OwnedTensor out(DType::kBF16, {rows, cols});
  Rng rng(stream_key(1, 0, name));
  for (bf16& v : out.span<bf16>()) v = bf16(static_cast<float>(3 * rng.normal()));
  return out;
}

bool same(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

class SwigluFp8 : public EveryIsa {
 protected:
  void expect_same(int64_t rows, int64_t F, bool weighted, ScaleFormat format) {
    const OwnedTensor gate_up = random_bf16("gate_up", rows, 2 * F);
    const OwnedTensor dh = random_bf16("dh", rows, F);
    OwnedTensor weight, dweight, want_dweight;
    if (weighted) {
      weight = OwnedTensor(DType::kF32, {rows});
      Rng rng(stream_key(1, 0, "weight"));
      for (float& w : weight.span<float>()) w = static_cast<float>(rng.uniform());
      dweight = OwnedTensor(DType::kF32, {rows});
      want_dweight = OwnedTensor(DType::kF32, {rows});
    }
    const auto made = [&](DType dtype, int64_t cols) { return OwnedTensor(dtype, {rows, cols}); };
    const int64_t blocks = quantized_blocks(2 * F, F);

    const OwnedTensor want_h = made(DType::kBF16, F), want_codes = made(DType::kE4M3, 2 * F),
                      want_scale = made(DType::kF32, blocks);
    quantize_rows(want_codes, want_scale, gate_up, F, format);
    swiglu(want_h, gate_up, weight);
    const OwnedTensor h = made(DType::kBF16, F), codes = made(DType::kE4M3, 2 * F),
                      scale = made(DType::kF32, blocks);
    swiglu_keeping(h, {codes, scale}, gate_up, weight, format);
    EXPECT_TRUE(same(codes, want_codes)) << rows << " x " << F;
    EXPECT_TRUE(same(scale, want_scale)) << rows << " x " << F;
    EXPECT_TRUE(same(h, want_h)) << rows << " x " << F;

    const OwnedTensor kept = made(DType::kBF16, 2 * F), want_d = made(DType::kBF16, 2 * F),
                      d = made(DType::kBF16, 2 * F);
    dequantize_rows(kept, codes, scale, F);
    swiglu(want_h, kept, weight);
    swiglu_backward(want_d, want_dweight, {}, dh, kept, weight);
    swiglu_backward_kept(d, dweight, h, dh, {codes, scale}, weight);
    EXPECT_TRUE(same(d, want_d)) << rows << " x " << F;
    EXPECT_TRUE(same(h, want_h)) << rows << " x " << F;
    if (!weighted) return;
    EXPECT_TRUE(same(dweight, want_dweight)) << rows << " x " << F;
  }
};
MINKE_ON_EVERY_ISA(SwigluFp8);

TEST_P(SwigluFp8, GivesTheBytesOfOneOpAfterTheOther) {
  for (const bool weighted : {false, true}) {
    for (const ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPowerOfTwo}) {
      for (const int64_t F : {1, 17, 128, 176}) {
        for (const int64_t rows : {1, 7, 200}) expect_same(rows, F, weighted, format);
      }
    }
  }
}

}  // namespace
}  // namespace minke::ops
