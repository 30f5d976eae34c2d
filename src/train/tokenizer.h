// The tokenizer that a corpus is read with: learned from it, or given.
#pragma once

#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "train/data.h"

namespace minke::train {

// Learns `vocabulary` tokens from the files' documents, with a line of progress. Error as
// text::train_bpe's and read_documents'.
text::Tokenizer learn_tokenizer(const std::vector<SourceFile>& files, const std::string& text_field,
                                int64_t vocabulary);

// An encoder of data's by this tokenizer, which must outlive it. Error for one without bos and eos.
Encoder encoder_of(const text::Tokenizer& tokenizer);

}  // namespace minke::train
