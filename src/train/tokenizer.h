// The tokenizer that a corpus is read with: learned from it, or given.
#pragma once

#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "train/data.h"

namespace minke::train {

// Text that is held at once. What a vocabulary is made of does not change with more of it.
inline constexpr uint64_t kMostToLearnFrom = uint64_t{1} << 28;

// Learns `vocabulary` tokens from the files' documents, with a line of progress: from all of them,
// or, where they hold more than `most_bytes`, from an even sample, every second, fourth, ... of
// them. Error as text::train_bpe's and read_documents'.
text::Tokenizer learn_tokenizer(const std::vector<SourceFile>& files, const std::string& text_field,
                                int64_t vocabulary, uint64_t most_bytes = kMostToLearnFrom);

// An encoder of data's by this tokenizer, which must outlive it. Error for one without bos and eos.
Encoder encoder_of(const text::Tokenizer& tokenizer);

}  // namespace minke::train
