// Counter-based random numbers (Philox 4x32-10, Salmon et al. 2011): a stream is a key, a draw is a
// position, so any part of a stream can be produced alone, on any thread, after any resume.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace minke {

// Names a stream: by convention the run's seed, the step (or 0), and what draws (a tensor's name).
uint64_t stream_key(uint64_t seed, uint64_t step, std::string_view what);

// The generator itself: 128 bits of counter and 64 of key (low words first) to four random words.
std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// The draws of a stream; `position` counts blocks of four words from its start.
class Rng {
 public:
  explicit Rng(uint64_t key, uint64_t position = 0) : key_(key), position_(position) {}

  uint32_t next_u32();
  uint64_t next_u64();
  // Uniform in [0, 1), 53 bits.
  double uniform();
  // Standard normal (Box-Muller, one value a call, two draws).
  double normal();
  // Uniform integer in [0, n), without bias; n > 0.
  uint64_t below(uint64_t n);

 private:
  void refill();

  uint64_t key_;
  uint64_t position_;  // blocks of four words already produced
  std::array<uint32_t, 4> block_{};
  int left_ = 0;
};

}  // namespace minke
