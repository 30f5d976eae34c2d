// config.json: any bytes are read, and written as what means the same, or are an Error.
#include <cstdlib>

#include "base/error.h"
#include "checkpoint/hf_config.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer looks for this name.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace minke::checkpoint;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const HfConfig config = parse_config(text, "input");
    if (parse_config(config_text(config), "written").model != config.model) std::abort();
  } catch (const minke::Error& error) {
    // What was read can be written and read again.
    if (std::string_view(error.what()).starts_with("written")) std::abort();
  }
  return 0;
}
