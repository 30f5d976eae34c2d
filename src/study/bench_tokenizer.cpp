#include "study/bench_tokenizer.h"

#include <algorithm>
#include <array>

#include "base/clock.h"

namespace minke::study {

TokenizerBench bench_tokenizer(const text::Tokenizer& tokenizer, std::string_view text) {
  std::array<double, 5> rates{};
  TokenizerBench out;
  out.bytes = std::ssize(text);
  for (double& rate : rates) {
    const double seconds = seconds_of([&] { out.tokens = std::ssize(tokenizer.encode(text)); });
    rate = static_cast<double>(text.size()) / seconds;
  }
  std::ranges::sort(rates);
  out.bytes_per_second = rates[rates.size() / 2];
  return out;
}

}  // namespace minke::study
