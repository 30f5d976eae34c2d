#include "study/run_data.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <utility>

#include "base/error.h"
#include "train/metrics.h"

namespace minke::study {
namespace {

using nlohmann::json;

// Points of a curve, columns of a heat map, texts.
constexpr size_t kCurve = 1200, kColumns = 240;
// Events, and under what name a page finds them.
struct Kind {
  const char *event, *list;
  size_t most;
};
constexpr std::array kKinds = {
    Kind{"step", "steps", kCurve},        Kind{"eval", "evals", kCurve},
    Kind{"routers", "routers", kColumns}, Kind{"modules", "modules", kColumns},
    Kind{"memory", "memory", kColumns},   Kind{"sample", "samples", kColumns},
    Kind{"spike", "spikes", kColumns}};

// What counts up is the later event's.
bool is_latest(const std::string& key) {
  constexpr std::array kLatest = {"step", "tokens", "epochs", "seconds", "layer"};
  return std::ranges::find(kLatest, key) != kLatest.end();
}

double number(const json& x) {
  return x.is_boolean() ? static_cast<double>(x.get<bool>()) : x.get<double>();
}

// a, of `weight` events, becomes the mean of a and b, of `other`.
void merge(json& a, size_t weight, const json& b, size_t other) {
  if (a.is_object() && b.is_object()) {
    for (const auto& [key, value] : b.items()) {
      if (is_latest(key) || !a.contains(key)) {
        a[key] = value;
      } else {
        merge(a[key], weight, value, other);
      }
    }
  } else if (a.is_array() && b.is_array() && a.size() == b.size()) {
    for (size_t i = 0; i < a.size(); ++i) merge(a[i], weight, b[i], other);
  } else if ((a.is_number() || a.is_boolean()) && (b.is_number() || b.is_boolean())) {
    const auto n = static_cast<double>(weight), m = static_cast<double>(other);
    a = (number(a) * n + number(b) * m) / (n + m);
  } else {
    a = b;
  }
}

void merge_events(json& a, size_t weight, const json& b, size_t other) {
  json range;
  if (a.value("event", "") == "step") {
    const auto ends = [](const json& e) {
      return e.value("loss_range", json{e.at("loss"), e.at("loss")});
    };
    range = {std::min(ends(a)[0], ends(b)[0]), std::max(ends(a)[1], ends(b)[1])};
  }
  merge(a, weight, b, other);
  if (!range.is_null()) a["loss_range"] = range;
}

}  // namespace

void ThinnedEvents::add(json event) {
  if (!events_.empty() && in_last_ < each_) {
    merge_events(events_.back(), in_last_++, event, 1);
    return;
  }
  events_.push_back(std::move(event));
  in_last_ = 1;
  if (events_.size() <= most_) return;
  // The newest stays alone in its pair.
  const size_t pairs = events_.size() / 2;
  for (size_t i = 0; i < pairs; ++i) {
    merge_events(events_[2 * i], each_, events_[2 * i + 1], each_);
    if (i > 0) events_[i] = std::move(events_[2 * i]);
  }
  events_[pairs] = std::move(events_.back());
  events_.resize(pairs + 1);
  each_ *= 2;
}

std::string run_name(const fs::path& folder) {
  const fs::path whole = fs::absolute(folder).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

RunData::RunData(const fs::path& run) : path_(run / "metrics.jsonl") { forget(); }

void RunData::forget() {
  read_ = 0;
  lines_ = 0;
  start_ = conclusion_ = nullptr;
  kinds_.clear();
  for (const Kind& kind : kKinds) kinds_.emplace(kind.event, kind.most);
}

void RunData::refresh() {
  struct stat now {};
  if (::stat(path_.c_str(), &now) != 0) {
    if (read_ > 0) fail("{}: is gone", path_.string());
    return;
  }
  if (now.st_ino != inode_ || std::cmp_less(now.st_size, read_)) {
    forget();
    inode_ = now.st_ino;
    ++replaced_;
  }
  if (std::cmp_equal(now.st_size, read_)) return;
  written_ = static_cast<double>(now.st_mtim.tv_sec);
  std::ifstream in(path_, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(read_));
  // What does not end in a newline is not whole yet.
  for (std::string line; std::getline(in, line) && !in.eof(); read_ += line.size() + 1, ++lines_) {
    train::read_event(path_, lines_ + 1, line, [&](nlohmann::json& event) {
      const std::string name = event["event"];
      if (name == "start") start_ = event;
      if (name == "eval" && event.value("whole", false)) conclusion_ = event;
      const auto kind = kinds_.find(name);
      if (kind != kinds_.end()) kind->second.add(std::move(event));
    });
  }
}

std::string RunData::version() const { return fmt::format("{}-{}", replaced_, read_); }

json RunData::json() const {
  nlohmann::json out = {{"start", start_}, {"written", written_}};
  for (const Kind& kind : kKinds) out[kind.list] = kinds_.at(kind.event).events();
  return out;
}

}  // namespace minke::study
