// Speed of a tokenizer's encoding, in one thread.
#pragma once

#include <string_view>

#include "text/tokenizer.h"

namespace minke::study {

struct TokenizerBench {
  double bytes_per_second = 0;  // the median of several goes over the whole text
  int64_t bytes = 0, tokens = 0;
};

TokenizerBench bench_tokenizer(const text::Tokenizer& tokenizer, std::string_view text);

}  // namespace minke::study
