// DeepSeek-V3's own tokenizer, as it was released (its JSON stored as .gz).
#pragma once

#include <zlib.h>

#include <string>

#include "base/error.h"
#include "base/file.h"
#include "text/tokenizer.h"

namespace minke::text {

inline const fs::path kGoldenTokenizer = fs::path(MINKE_GOLDEN_DIR) / "deepseek-v3-tokenizer";

inline std::string read_gzip(const fs::path& path) {
  const gzFile file = ::gzopen(path.c_str(), "rb");
  if (file == nullptr) fail("{}: cannot be read", path.string());
  std::string out, chunk(1 << 20, '\0');
  for (int n = 1; n > 0; out.append(chunk, 0, static_cast<size_t>(n))) {
    n = ::gzread(file, chunk.data(), static_cast<unsigned>(chunk.size()));
    if (n < 0) fail("{}: damaged", path.string());
  }
  ::gzclose(file);
  return out;
}

inline const Tokenizer& golden_tokenizer() {
  static const Tokenizer tokenizer =
      Tokenizer::parse({.json = read_gzip(kGoldenTokenizer / "tokenizer.json.gz"),
                        .tiktoken = {},
                        .config = read_file(kGoldenTokenizer / "tokenizer_config.json"),
                        .chat_template = {}},
                       "DeepSeek-V3");
  return tokenizer;
}

}  // namespace minke::text
