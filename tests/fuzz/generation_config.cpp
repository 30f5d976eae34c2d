// generation_config.json: any bytes are read, and written as what means the same, or are an Error.
#include "checkpoint/generation_config.h"

#include <cstdlib>

#include "base/error.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer looks for this name.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace minke::checkpoint;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const GenerationConfig a = parse_generation_config(text, "input");
    const GenerationConfig b =
        parse_generation_config(generation_config_text(a, 0, a.eos_token_id), "written");
    if (a.eos_token_id != b.eos_token_id || a.temperature != b.temperature || a.top_p != b.top_p ||
        a.min_p != b.min_p || a.top_k != b.top_k) {
      std::abort();
    }
  } catch (const minke::Error& error) {
    // What was read can be written and read again.
    if (std::string_view(error.what()).starts_with("written")) std::abort();
  }
  return 0;
}
