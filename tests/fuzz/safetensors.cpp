// A safetensors file: any bytes open, and every number lies within them, or are an Error.
#include "checkpoint/safetensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer looks for this name.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace minke;
  static const int file = ::memfd_create("input", 0);
  static const std::string path = fmt::format("/proc/self/fd/{}", file);
  const auto bytes = static_cast<off_t>(size);
  MINKE_CHECK(::ftruncate(file, bytes) == 0 && ::pwrite(file, data, size, 0) == bytes);
  try {
    const checkpoint::SafetensorsFile opened(path);
    for (const auto& [name, stored] : opened.tensors()) {
      unsigned all = 0;
      for (const std::byte byte : stored.span()) all |= static_cast<unsigned>(byte);
      MINKE_CHECK(all < 256);
      try {
        MINKE_CHECK(opened.tensor(name).bytes() == stored.size);
      } catch (const Error&) {
        continue;  // a dtype or a rank that nothing here computes with
      }
    }
  } catch (const Error&) {
    return 0;
  }
  return 0;
}
