#include "study/bench_tokenizer.h"

#include <algorithm>
#include <array>
#include <chrono>

namespace minke::study {

TokenizerBench bench_tokenizer(const text::Tokenizer& tokenizer, std::string_view text) {
  std::array<double, 5> rates{};
  TokenizerBench out;
  out.bytes = std::ssize(text);
  for (double& rate : rates) {
    const auto start = std::chrono::steady_clock::now();
    out.tokens = std::ssize(tokenizer.encode(text));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    rate = static_cast<double>(text.size()) / seconds.count();
  }
  std::ranges::sort(rates);
  out.bytes_per_second = rates[rates.size() / 2];
  return out;
}

}  // namespace minke::study
