#include "checkpoint/checksums.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"

namespace minke::checkpoint {
namespace {

constexpr const char* kFile = "checksums.json";

std::string checksum(const fs::path& path) {
  Hasher hasher;
  if (fs::file_size(path) > 0) {
    const MappedFile file(path);
    hasher.add(file.bytes().data(), file.bytes().size());
  }
  return hasher.hex();
}

}  // namespace

void write_checksums(const fs::path& folder) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  for (const std::string& name : names) out[name] = checksum(folder / name);
  write_file_atomic(folder / kFile, out.dump(2) + "\n");
}

void verify_checksums(const fs::path& folder) {
  const fs::path path = folder / kFile;
  if (!fs::exists(path)) return;
  const auto stated = parse_json<nlohmann::json>(read_file(path), path.string());
  if (!stated.is_object()) fail("{}: expected an object, got {}", path.string(), shown(stated));
  for (const auto& [name, sum] : stated.items()) {
    if (!sum.is_string() || fs::path(name).filename() != name) {
      fail("{}: \"{}\": expected a file of the folder and its checksum", path.string(), name);
    }
    if (!fs::exists(folder / name)) fail("{}: is missing", (folder / name).string());
    const std::string now = checksum(folder / name);
    if (now != sum.get<std::string>()) {
      fail(
          "{}: is not as it was saved: checksum {}, expected {}; take another checkpoint, such as "
          "one that --keep-last kept in checkpoints/",
          (folder / name).string(), now, sum.get<std::string>());
    }
  }
}

}  // namespace minke::checkpoint
