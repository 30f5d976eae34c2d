// TensorBoard's files read back: records, checksums, and the numbers of metrics.jsonl.
#include "app/small_run.h"

namespace minke {
namespace {

using nlohmann::json;

// CRC-32C bit by bit, from its polynomial.
uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0U;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
  }
  return ~crc;
}

template <typename T>
T take(std::string_view& from) {
  T value{};
  if (from.size() < sizeof value) throw std::runtime_error("the file is cut short");
  std::memcpy(&value, from.data(), sizeof value);
  from.remove_prefix(sizeof value);
  return value;
}
std::string_view take_bytes(std::string_view& from, uint64_t size) {
  if (from.size() < size) throw std::runtime_error("the file is cut short");
  const std::string_view out = from.substr(0, size);
  from.remove_prefix(size);
  return out;
}
uint64_t take_varint(std::string_view& from) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = take<uint8_t>(from);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

std::vector<std::string_view> records(std::string_view file) {
  std::vector<std::string_view> out;
  const auto masked = [](std::string_view bytes) {
    const uint32_t crc = crc32c(bytes);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
  };
  while (!file.empty()) {
    const std::string_view head = file.substr(0, 8);
    const auto length = take<uint64_t>(file);
    EXPECT_EQ(take<uint32_t>(file), masked(head));
    out.push_back(take_bytes(file, length));
    EXPECT_EQ(take<uint32_t>(file), masked(out.back()));
  }
  return out;
}

// Calls visit(field, value): value is what the field's bytes are, 8, 4 or as many as it says.
void for_each_field(std::string_view message,
                    const std::function<void(uint64_t, std::string_view, uint64_t)>& visit) {
  while (!message.empty()) {
    const uint64_t key = take_varint(message);
    switch (key & 7) {
      case 0:
        visit(key >> 3, {}, take_varint(message));
        break;
      case 1:
        visit(key >> 3, take_bytes(message, 8), 0);
        break;
      case 2:
        visit(key >> 3, take_bytes(message, take_varint(message)), 0);
        break;
      case 5:
        visit(key >> 3, take_bytes(message, 4), 0);
        break;
      default:
        throw std::runtime_error("a field of no kind");
    }
  }
}

struct Told {
  double time = 0;
  int64_t step = 0;
  std::string version;
  std::map<std::string, float> scalars;
  std::map<std::string, std::string> texts;
};

Told told(std::string_view record) {
  Told out;
  const auto read_value = [&](std::string_view value) {
    std::string tag;
    for_each_field(value, [&](uint64_t field, std::string_view bytes, uint64_t) {
      if (field == 1) tag = bytes;
      if (field == 2) out.scalars[tag] = take<float>(bytes);
      if (field != 8) return;
      for_each_field(bytes, [&](uint64_t inner, std::string_view text, uint64_t number) {
        EXPECT_TRUE(inner != 1 || number == 7U);  // dtype: DT_STRING
        if (inner == 8) out.texts[tag] = text;
      });
    });
  };
  for_each_field(record, [&](uint64_t field, std::string_view bytes, uint64_t number) {
    if (field == 1) out.time = take<double>(bytes);
    if (field == 2) out.step = static_cast<int64_t>(number);
    if (field == 3) out.version = bytes;
    if (field != 5) return;
    for_each_field(bytes, [&](uint64_t, std::string_view value, uint64_t) { read_value(value); });
  });
  return out;
}

// One file, and in it what each line of the log says.
void expect_the_log(const SmallRuns& runs, const std::string& out) {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(runs.path(out + "/tensorboard"))) {
    files.push_back(entry.path());
  }
  ASSERT_EQ(files.size(), 1U);
  EXPECT_THAT(files[0], testing::HasSubstr("events.out.tfevents."));
  const std::string bytes = read_file(files[0]);
  const auto all = records(bytes);
  EXPECT_EQ(told(all[0]).version, "brain.Event:2");

  std::istringstream lines(read_file(runs.path(out + "/metrics.jsonl")));
  size_t at = 1;
  double before = 0;
  for (std::string line; std::getline(lines, line); ++at) {
    ASSERT_LT(at, all.size());
    const auto event = json::parse(line);
    const std::string kind = event["event"];
    const Told now = told(all[at]);
    EXPECT_EQ(now.step, event["step"]);
    EXPECT_GE(now.time, before - (kind == "start" ? 60 : 0));
    before = now.time;
    const auto expect = [&](const std::string& tag, const json& value) {
      ASSERT_TRUE(now.scalars.contains(tag)) << tag;
      EXPECT_EQ(now.scalars.at(tag), value.get<float>()) << tag;
    };
    if (kind == "step") {
      expect("step/loss", event["loss"]);
      expect("step/mtp_loss/1", event["mtp_loss"][0]);
      expect("step/gradient_norm", event["gradient_norm"]);
      expect("step/time/backward", event["time"]["backward"]);
      EXPECT_EQ(now.scalars.at("step/clipped"), event["clipped"].get<bool>() ? 1 : 0);
    } else if (kind == "eval") {
      expect("eval/bits_per_byte", event["bits_per_byte"]);
      expect("eval/loss/2", event["loss"][1]);
    } else if (kind == "modules") {
      for (const json& module : event["modules"]) {
        const std::string layer =
            module.contains("layer") ? "layers." + module["layer"].dump() + "." : "";
        expect("modules/" + layer + module["module"].get<std::string>() + "/update",
               module["update"]);
      }
    } else if (kind == "routers") {
      expect("routers/layers.1/max_vio", event["layers"][0]["max_vio"]);
      EXPECT_EQ(now.scalars.size(), 2 * event["layers"].size());
    } else if (kind == "sample") {
      EXPECT_EQ(now.texts.at("sample"),
                event["prompt"].get<std::string>() + event["text"].get<std::string>());
    }
  }
  EXPECT_EQ(at, all.size());
}

TEST(TensorBoard, TellsWhatMetricsTell) {
  const SmallRuns runs;
  auto flags = runs.flags(
      "run", {"--steps", "8", "--eval-every", "2", "--stop-at", "5", "--sample-prompt", "Anne"});
  flags.emplace_back("--tensorboard");
  expect_success(run_program(flags));
  expect_success(
      run_program({"train", "--resume", runs.path("run"), "--no-report", "--tensorboard"}));
  expect_the_log(runs, "run");
}

// A spike sends a run back to its checkpoint, and the log with it.
TEST(TensorBoard, FollowsARunThatGoesBack) {
  const SmallRuns runs;
  auto flags = runs.flags("run", {"--steps", "30", "--on-spike", "rollback", "--spike-z", "0.5",
                                  "--lr", "1e-4", "--save-every", "5"});
  flags.emplace_back("--tensorboard");
  run_program(flags);  // in the end it may give up
  EXPECT_THAT(read_file(runs.path("run/metrics.jsonl")), testing::HasSubstr("\"rollback\""));
  expect_the_log(runs, "run");
}

}  // namespace
}  // namespace minke
