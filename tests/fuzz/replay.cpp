// Runs a fuzz target on files and on all files of folders: the kept corpora, without libFuzzer.
#include <cstdint>
#include <cstdio>
#include <exception>

#include "base/file.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer looks for this name.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  int inputs = 0;
  const auto run = [&](const minke::fs::path& path) {
    const std::string input = minke::read_file(path);
    (void)LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
    ++inputs;
  };
  try {
    for (int i = 1; i < argc; ++i) {
      if (!minke::fs::is_directory(argv[i])) {
        run(argv[i]);
        continue;
      }
      for (const auto& entry : minke::fs::directory_iterator(argv[i])) run(entry.path());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::printf("%d inputs\n", inputs);
  return inputs > 0 ? 0 : 1;
}
