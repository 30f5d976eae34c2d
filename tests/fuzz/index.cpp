// model.safetensors.index.json beside two shards: any bytes give tensors that lie in those, or are
// an Error.
#include <fstream>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace {

using namespace minke;

void write(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), std::ssize(bytes));
}

// A shard with one tensor of four bytes.
void write_shard(const fs::path& path, const std::string& name) {
  const std::string header =
      R"({")" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  write(path,
        std::string{static_cast<char>(header.size())} + std::string(7, '\0') + header + "abcd");
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer looks for this name.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const TemporaryFolder folder;
  static const bool made = [] {
    write_shard(folder / "a.safetensors", "first");
    write_shard(folder / "b.safetensors", "second");
    return true;
  }();
  MINKE_CHECK(made);
  write(folder / "model.safetensors.index.json", {reinterpret_cast<const char*>(data), size});
  try {
    const checkpoint::CheckpointFolder opened(folder.path());
    for (const auto& [name, file] : opened.tensors()) {
      MINKE_CHECK(name == "first" || name == "second");
      MINKE_CHECK(opened.tensor(name).bytes() == 4 && file == &opened.file_of(name));
    }
  } catch (const Error&) {
    return 0;
  }
  return 0;
}
