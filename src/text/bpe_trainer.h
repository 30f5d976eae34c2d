// Learns a byte-level BPE vocabulary from text (Sennrich et al. 2016), with DeepSeek-V3's
// pre-tokenisation.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace minke::text {

// From id 0: begin and end of sentence, padding, fill-in-the-middle, chat.
const std::vector<std::string>& reserved_tokens();

// What train_bpe takes: from one merge to a number that nobody needs.
int64_t least_vocabulary();
inline constexpr int64_t kLargestVocabulary = 1'000'000;

// reserved_tokens(), the 256 bytes, then merges until `vocabulary` tokens, or until no pair stands
// twice. The pair that stands most often is merged first; of equals the one of lower ids. The
// result depends on the texts' words alone: on no order, no number of threads. progress: the share
// that is done. Error for a vocabulary that has no room for a merge, or text without words.
Tokenizer train_bpe(const std::vector<std::string_view>& texts, int64_t vocabulary,
                    const std::function<void(double)>& progress = {});

}  // namespace minke::text
