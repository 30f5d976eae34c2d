#include "base/rng.h"

#include <cmath>
#include <numbers>

#include "base/hash.h"

namespace minke {

uint64_t stream_key(uint64_t seed, uint64_t step, std::string_view what) {
  const std::array<uint64_t, 3> words = {seed, step, hash64(what.data(), what.size())};
  return hash64(words.data(), sizeof words);
}

std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  constexpr uint32_t kMul0 = 0xD2511F53, kMul1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kMul0} * c[0], p1 = uint64_t{kMul1} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return c;
}

void Rng::refill() {
  block_ = philox4x32_10(
      {static_cast<uint32_t>(position_), static_cast<uint32_t>(position_ >> 32), 0, 0},
      {static_cast<uint32_t>(key_), static_cast<uint32_t>(key_ >> 32)});
  left_ = 4;
  ++position_;
}

uint32_t Rng::next_u32() {
  if (left_ == 0) refill();
  return block_[4 - left_--];
}

uint64_t Rng::next_u64() {
  const uint64_t high = next_u32();
  return high << 32 | next_u32();
}

double Rng::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }

double Rng::normal() {
  const double u = 1.0 - uniform(), v = uniform();
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

uint64_t Rng::below(uint64_t n) {
  const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
  uint64_t x = next_u64();
  while (x >= limit) x = next_u64();
  return x % n;
}

}  // namespace minke
