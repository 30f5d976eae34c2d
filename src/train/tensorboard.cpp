#include "train/tensorboard.h"

#include <array>
#include <bit>
#include <chrono>
#include <cstring>

#include "base/error.h"

namespace minke::train {
namespace {

constexpr std::string_view kName = "events.out.tfevents.", kEnding = ".minke";

constexpr auto kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
    table[i] = crc;
  }
  return table;
}();

template <typename T>
std::string little_endian(T value) {
  static_assert(std::endian::native == std::endian::little);
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

// Protocol buffers: a field is its number and kind, then its value.
enum Wire : uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string key(uint64_t field, Wire wire) { return varint(field << 3 | wire); }
std::string number(uint64_t field, uint64_t value) { return key(field, kVarint) + varint(value); }
std::string bytes(uint64_t field, std::string_view value) {
  return key(field, kBytes) + varint(value.size()) + std::string(value);
}

// tensorflow.Event: wall_time = 1, step = 2, file_version = 3, summary = 5.
std::string event_at(double time, int64_t step) {
  return key(1, kFixed64) + little_endian(time) + number(2, static_cast<uint64_t>(step));
}
// Summary.Value: tag = 1, simple_value = 2, tensor = 8, metadata = 9.
std::string scalar(const std::string& tag, float value) {
  return bytes(1, bytes(1, tag) + key(2, kFixed32) + little_endian(value));
}
std::string text(const std::string& tag, const std::string& value) {
  constexpr uint64_t kString = 7;  // TensorProto.dtype
  const std::string shape = bytes(2, number(1, 1));
  const std::string tensor = number(1, kString) + bytes(2, shape) + bytes(8, value);
  const std::string metadata = bytes(1, bytes(1, "text"));  // the plugin that shows it
  return bytes(1, bytes(1, tag) + bytes(8, tensor) + bytes(9, metadata));
}

// What names an object among others of a list.
std::string name_of(const nlohmann::json& object, size_t index) {
  const std::string layer =
      object.contains("layer") ? fmt::format("layers.{}", object["layer"].get<int64_t>()) : "";
  const std::string module = object.value("module", "");
  if (layer.empty() && module.empty()) return std::to_string(index + 1);
  return layer + (layer.empty() || module.empty() ? "" : ".") + module;
}

void add_scalars(const std::string& name, const nlohmann::json& value,
                 std::vector<std::pair<std::string, float>>& out) {
  if (value.is_number()) {
    out.emplace_back(name, value.get<float>());
  } else if (value.is_boolean()) {
    out.emplace_back(name, value.get<bool>() ? 1.0F : 0.0F);
  } else if (value.is_object()) {
    for (const auto& [field, inner] : value.items()) {
      const bool says_nothing = field == "step" || field == "layer";
      const bool of_experts = field == "counts" || field == "bias";
      if (!says_nothing && !of_experts) add_scalars(fmt::format("{}/{}", name, field), inner, out);
    }
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) {
      const std::string which = value[i].is_object() ? name_of(value[i], i) : std::to_string(i + 1);
      add_scalars(fmt::format("{}/{}", name, which), value[i], out);
    }
  }
}

}  // namespace

uint32_t masked_crc32c(std::string_view bytes) {
  uint32_t crc = ~0U;
  for (const char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return std::rotr(~crc, 15) + 0xa282ead8U;
}

std::vector<std::pair<std::string, float>> scalars_of(const nlohmann::json& event) {
  std::vector<std::pair<std::string, float>> out;
  nlohmann::json fields = event;
  // Lists of objects stand for themselves: modules/layers.3.attention, not modules/modules/...
  for (const char* list : {"layers", "modules"}) {
    if (!event.contains(list)) continue;
    add_scalars(event.value("event", ""), event[list], out);
    fields.erase(list);
  }
  add_scalars(event.value("event", ""), fields, out);
  return out;
}

TensorBoardFile::TensorBoardFile(const fs::path& folder) {
  make_writable_folder(folder);
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(kName) && name.ends_with(kEnding)) fs::remove(entry.path());
  }
  now_ = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  path_ = folder / fmt::format("{}{:.0f}{}", kName, now_, kEnding);
  out_.open(path_, std::ios::binary);
  write_record(event_at(now_, 0) + bytes(3, "brain.Event:2"));
}

void TensorBoardFile::write(const nlohmann::json& event) {
  const std::string kind = event.value("event", "");
  const double seconds = event.value("seconds", 0.0);
  if (kind == "start") began_ = event.value("unix_time", 0.0) - seconds;
  if (kind == "start" || kind == "step") now_ = began_ + seconds;
  std::string summary;
  if (kind == "sample") {
    summary = text("sample", event.value("prompt", "") + event.value("text", ""));
  } else {
    for (const auto& [tag, value] : scalars_of(event)) summary += scalar(tag, value);
  }
  write_record(event_at(now_, event.value("step", int64_t{0})) + bytes(5, summary));
}

void TensorBoardFile::write_record(const std::string& event) {
  const std::string length = little_endian(static_cast<uint64_t>(event.size()));
  out_ << length << little_endian(masked_crc32c(length)) << event
       << little_endian(masked_crc32c(event)) << std::flush;
  if (!out_) fail("{}: cannot be written (is the disk full?)", path_.string());
}

}  // namespace minke::train
