// A tokenizer in llama.cpp's words.
#pragma once

#include "checkpoint/gguf_export.h"
#include "text/tokenizer.h"

namespace minke::app {

// Error for a tokenizer that llama.cpp would not split or merge by as it says.
checkpoint::GgufVocabulary gguf_vocabulary(const text::Tokenizer& tokenizer);

}  // namespace minke::app
