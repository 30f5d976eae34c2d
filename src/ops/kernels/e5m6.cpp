#include "ops/kernels/e5m6.h"

#include "ops/kernels/e4m3.h"
#include "tensor/scales.h"

namespace minke::ops::kernels::MINKE_TARGET {
namespace {

constexpr int64_t kTile = 128;
// Codes of a tile and a vector more, each in a word.
using Codes = uint32_t[kTile + kLanes];

#if defined(MINKE_TARGET_scalar)

void encode_tile(Codes& codes, const bf16* x, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) codes[i] = e5m6_encode(load(x + i).v / scale);
}
void decode_tile(bf16* x, const Codes& codes, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) {
    store(x + i, {e5m6_decode(static_cast<uint16_t>(codes[i])) * scale});
  }
}

#else

// The scale is a power of two, so numbers at and above 2^-14 of it lose 17 bits whatever it is;
// those below are multiples of 2^-20 of it.
void encode_tile(Codes& codes, const bf16* x, int64_t count, float scale) {
  // Where they would be no normal FP32, all are made larger.
  const float lift = scale < 0x1p-60F ? 0x1p64F : 1.0F;
  scale *= lift;
  const Vec step = splat(scale * 0x1p-20F);
  const Bits normal = bits_of(splat(scale * 0x1p-14F));
  // What the exponent of such a number is above that of its code.
  const Bits above = minus(right<17>(normal), all(1U << 6));
  for_each_vector(count, [&](int64_t i, int n) {
    const Bits bits = bits_of(load_n(x + i, n) * splat(lift)), size = both(bits, all(kSize));
    const Bits odd = both(right<17>(size), all(1));
    const Bits carried = minus(right<17>(plus(size, plus(odd, all(0xffff)))), above);
    const Bits small = nearest(vec_of(size) / step);
    const Bits sign = right<20>(both(bits, all(~kSize)));
    store_pairs(codes + i, either(where_less(size, normal, small, carried), sign));
  });
}
void decode_tile(bf16* x, const Codes& codes, int64_t count, float scale) {
  for_each_vector(count, [&](int64_t i, int n) {
    const Bits code = bits_of(load(reinterpret_cast<const float*>(codes) + i));
    const Bits size = both(code, all(0x7ff)), sign = left<20>(both(code, all(0x800)));
    const Bits normal = plus(left<17>(size), all(112U << 23));
    const Bits small = bits_of(float_of(size) * splat(0x1p-20F));
    const Bits number = either(where_less(size, all(64), small, normal), sign);
    store_n(x + i, vec_of(number) * splat(scale), n);
  });
}

#endif

void pack_tile(uint8_t* to, const Codes& codes, int64_t count) {
  const int64_t half = (count + 1) / 2;
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(codes[i]);
  for (int64_t i = 0; i < half; ++i) {
    const uint32_t second = i + half < count ? codes[i + half] : 0;
    to[count + i] = static_cast<uint8_t>(codes[i] >> 8 | second >> 8 << 4);
  }
}
void unpack_tile(Codes& codes, const uint8_t* from, int64_t count) {
  const int64_t half = (count + 1) / 2;
  for (int64_t i = 0; i < count; ++i) codes[i] = from[i];
  for (int64_t i = 0; i < half; ++i) codes[i] |= (from[count + i] & 15U) << 8;
  for (int64_t i = half; i < count; ++i) codes[i] |= from[count + i - half] >> 4 << 8;
}

template <typename Body>
void for_each_tile(const E5m6Rows& e, int64_t begin, int64_t end, Body&& body) {
  for (int64_t r = begin; r < end; ++r) {
    bf16* x = row_of<bf16>(e.x, r);
    uint8_t* codes = e.codes + r * e.codes_stride;
    float* scale = e.scale + r * e.scale_stride;
    for (int64_t c = 0; c < e.x.cols; c += kTile) {
      const int64_t count = e.x.cols - c < kTile ? e.x.cols - c : kTile;
      body(x + c, codes, *scale++, count);
      codes += count + (count + 1) / 2;
    }
  }
}

void quantize(const E5m6Rows& e, int64_t begin, int64_t end) {
  for_each_tile(e, begin, end, [](bf16* x, uint8_t* to, float& scale, int64_t count) {
    Codes codes = {};
    const uint32_t top = largest_of(widest(all(0), x, count));
    if (top < kInfinity) {
      scale = e5m6_scale(first_of(vec_of(all(top))));
      encode_tile(codes, x, count, scale);
    } else {
      scale = first_of(vec_of(all(0x7fc00000)));
    }
    pack_tile(to, codes, count);
    decode_tile(x, codes, count, scale);
  });
}

void dequantize(const E5m6Rows& e, int64_t begin, int64_t end) {
  for_each_tile(e, begin, end, [](bf16* x, const uint8_t* from, float scale, int64_t count) {
    Codes codes = {};
    unpack_tile(codes, from, count);
    decode_tile(x, codes, count, scale);
  });
}

}  // namespace

const E5m6Kernels& e5m6_kernels() {
  static constexpr E5m6Kernels kTable{quantize, dequantize};
  return kTable;
}

}  // namespace minke::ops::kernels::MINKE_TARGET
