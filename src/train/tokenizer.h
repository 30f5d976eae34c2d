// The tokenizer that a corpus is read with: learned from it, or given.
#pragma once

#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "train/data.h"

namespace minke::train {

// Text that is held at once. What a vocabulary is made of does not change with more of it.
inline constexpr uint64_t kMostToLearnFrom = uint64_t{1} << 28;

// Learns `vocabulary` tokens from what the corpus does not hold out, with a line of progress: from
// all of it, or, where that is more than `most_bytes`, from an even sample, every second, fourth,
// ... document. Error as text::train_bpe's and Corpus::read's, or an interrupt.
text::Tokenizer learn_tokenizer(const Corpus& corpus, int64_t vocabulary,
                                uint64_t most_bytes = kMostToLearnFrom);

// An encoder of data's by this tokenizer, which must outlive it. Error for one without bos and eos.
Encoder encoder_of(const text::Tokenizer& tokenizer);

}  // namespace minke::train
