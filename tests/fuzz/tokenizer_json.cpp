// tokenizer.json and tokenizer_config.json: any bytes load, and then work, or are an Error.
#include "fuzz/tokenizer_input.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer looks for this name.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace minke::text;
  load_and_exercise(data, size, [](std::string main, std::string config) {
    return TokenizerFiles{std::move(main), "", std::move(config), ""};
  });
  return 0;
}
