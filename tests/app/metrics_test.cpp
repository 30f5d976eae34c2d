// What a run writes to metrics.jsonl is what docs/METRICS.md says, and all of it.
#include <cmath>
#include <set>
#include <sstream>

#include "app/small_run.h"

namespace minke {
namespace {

using nlohmann::json;

struct Field {
  std::string kind;
  bool optional = false;
};
using Schema = std::map<std::string, std::map<std::string, Field>>;  // by event, by path

// The tables under the document's headings.
Schema documented() {
  std::istringstream lines(read_file(fs::path(MINKE_SOURCE_DIR) / "docs" / "METRICS.md"));
  Schema out;
  std::string event;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("## ")) event = line.substr(3);
    if (!line.starts_with("| `")) continue;
    std::istringstream cells(line);
    std::string cell, path, kind;
    std::getline(cells, cell, '`');
    std::getline(cells, path, '`');
    std::getline(cells, cell, '|');
    std::getline(cells, kind, '|');
    kind = kind.substr(1, kind.size() - 2);
    const bool optional = kind.ends_with('?');
    if (optional) kind.pop_back();
    EXPECT_TRUE(out[event].emplace(path, Field{kind, optional}).second) << event << ' ' << path;
  }
  for (auto& [name, fields] : out) {
    fields["event"] = {"text"};
    fields["step"] = {"integer"};
  }
  return out;
}

bool is_of_kind(const json& value, const std::string& kind) {
  const auto all = [&](bool (json::*is)() const) {
    return value.is_array() && std::ranges::all_of(value, [&](const json& x) { return (x.*is)(); });
  };
  if (kind == "integer") return value.is_number_integer();
  if (kind == "number") return value.is_number();
  if (kind == "text") return value.is_string();
  if (kind == "flag") return value.is_boolean();
  if (kind == "integers") return all(&json::is_number_integer);
  if (kind == "numbers") return all(&json::is_number);
  ADD_FAILURE() << "docs/METRICS.md: no kind is named " << kind;
  return false;
}

// Each object's fields are those that the schema has below `prefix`.
void check(const json& object, const std::map<std::string, Field>& fields,
           const std::string& prefix, std::set<std::string>& seen) {
  for (const auto& [key, value] : object.items()) {
    const std::string path = prefix + key;
    if (value.is_object()) {
      check(value, fields, path + ".", seen);
    } else if (value.is_array() && !value.empty() && value[0].is_object()) {
      for (const json& element : value) check(element, fields, path + "[].", seen);
    } else {
      ASSERT_TRUE(fields.contains(path)) << path << " is not documented";
      EXPECT_TRUE(is_of_kind(value, fields.at(path).kind)) << path << ": " << value;
      seen.insert(path);
    }
  }
  for (const auto& [path, field] : fields) {
    const std::string rest = path.starts_with(prefix) ? path.substr(prefix.size()) : "";
    if (rest.empty() || field.optional || rest.find_first_of(".[") != std::string::npos) continue;
    EXPECT_TRUE(object.contains(rest)) << path << " is missing in " << object;
  }
}

std::vector<json> events_of(const SmallRuns& runs, const std::string& out) {
  std::istringstream lines(read_file(runs.path(out + "/metrics.jsonl")));
  std::vector<json> events;
  for (std::string line; std::getline(lines, line);) events.push_back(json::parse(line));
  return events;
}

TEST(Metrics, AreWhatTheirSchemaSays) {
  const Schema schema = documented();
  const SmallRuns runs;
  expect_success(
      run_program(runs.flags("run", {"--steps", "10", "--ema", "0.9", "--eval-every", "5"})));
  std::map<std::string, int> events;
  std::map<std::string, std::set<std::string>> seen;
  const auto check_all = [&](const std::string& out) {
    for (const json& event : events_of(runs, out)) {
      const std::string kind = event.at("event");
      ASSERT_TRUE(schema.contains(kind)) << kind << " is not documented";
      if (out == "run") ++events[kind];
      check(event, schema.at(kind), "", seen[kind]);
    }
  };
  check_all("run");
  // Every step that is a little above the others is a spike here.
  expect_success(run_program(runs.flags(
      "spikes", {"--steps", "30", "--on-spike", "skip", "--spike-z", "0.5", "--lr", "1e-4"})));
  check_all("spikes");
  expect_success(
      run_program(runs.flags("fp8", {"--steps", "6", "--precision", "fp8", "--shadow-bf16", "2"})));
  check_all("fp8");
  for (const auto& [kind, fields] : schema) {
    for (const auto& [path, field] : fields) {
      EXPECT_TRUE(seen[kind].contains(path)) << kind << ": " << path << " was never written";
    }
  }
  EXPECT_EQ(events["step"], 10);
  EXPECT_EQ(events["eval"], 2);

  // A finished run that is resumed has nothing to add.
  const std::string before = read_file(runs.path("run/metrics.jsonl"));
  expect_success(run_program({"train", "--resume", runs.path("run"), "--no-report"}));
  EXPECT_EQ(read_file(runs.path("run/metrics.jsonl")), before);
}

// FP8 rounds, so its loss is another, by less than a code is off at worst, 2^-4; what is counted is
// all that is quantised.
TEST(Metrics, Fp8IsWatched) {
  const SmallRuns runs;
  expect_success(
      run_program(runs.flags("fp8", {"--steps", "6", "--precision", "fp8", "--shadow-bf16", "2"})));
  int shadows = 0, counts = 0;
  for (const json& event : events_of(runs, "fp8")) {
    if (event["event"] == "step") {
      EXPECT_EQ(event.contains("shadow"), event["step"].get<int>() % 2 == 0);
      if (!event.contains("shadow")) continue;
      ++shadows;
      EXPECT_NE(event["shadow"]["difference"], 0);
      EXPECT_LT(std::abs(event["shadow"]["difference"].get<double>()), 0x1p-4);
    } else if (event["event"] == "fp8") {
      ++counts;
      std::set<std::string> kinds;
      for (const json& kind : event["kinds"]) {
        kinds.insert(kind["kind"]);
        // E5M6's scales are powers of two: as large as amax asks for, or larger.
        EXPECT_GE(kind["saturated"], kind["kind"] == "attention_output" ? 0 : 1) << kind;
        EXPECT_LE(kind["saturated"], kind["numbers"]) << kind;
        EXPECT_GT(kind["least_scale"], 0) << kind;
        EXPECT_LE(kind["least_scale"], kind["largest_scale"]) << kind;
      }
      EXPECT_EQ(kinds,
                std::set<std::string>({"activations", "activations_128x1", "attention_output",
                                       "gradients", "gradients_128x1", "swiglu_input", "weights"}));
    }
  }
  EXPECT_EQ(shadows, 3);
  EXPECT_EQ(counts, 6);
}

// Modules are all of the model, and phases all of a step.
TEST(Metrics, PartsMakeTheWhole) {
  const SmallRuns runs;
  expect_success(
      run_program(runs.flags("run", {"--steps", "6", "--clip", "0.5", "--min-lr", "1e-3"})));
  json last;
  double clipped = 0;
  for (const json& event : events_of(runs, "run")) {
    const std::string kind = event["event"];
    if (kind == "step") {
      last = event;
      clipped += event["clipped"].get<bool>() ? 1 : 0;
      EXPECT_EQ(event["clip_rate"].get<double>(), clipped / event["step"].get<double>());
      double phases = 0;
      for (const auto& [phase, seconds] : event["time"].items()) {
        phases += seconds.get<double>();
        EXPECT_GT(seconds, 0) << phase;
      }
      const double whole = 4 * 16 / event["tokens_per_second"].get<double>();
      EXPECT_LE(phases, whole);
    } else if (kind == "modules") {
      double squares = 0;
      for (const json& module : event["modules"]) {
        squares += std::pow(module["gradient"].get<double>(), 2);
        EXPECT_GT(module["update"], 0) << module;
        EXPECT_GT(module["weight"], 0) << module;
      }
      const double norm = last["gradient_norm"];
      EXPECT_NEAR(std::sqrt(squares), norm, 1e-12 * norm);
    } else if (kind == "routers") {
      for (const json& layer : event["layers"]) {
        const auto counts = layer["counts"].get<std::vector<int64_t>>();
        EXPECT_EQ(layer["dead_experts"], std::ranges::count(counts, 0));
      }
    }
  }
  EXPECT_GT(clipped, 0);
}

TEST(Metrics, ClipRateGoesOnInARunThatIsResumed) {
  const SmallRuns runs;
  const std::vector<std::string> flags = {"--steps", "6", "--clip", "0.5"};
  auto stopped = flags;
  stopped.insert(stopped.end(), {"--stop-at", "3"});
  expect_success(run_program(runs.flags("whole", flags)));
  expect_success(run_program(runs.flags("stopped", stopped)));
  expect_success(run_program({"train", "--resume", runs.path("stopped"), "--no-report"}));
  const auto rates = [&](const std::string& out) {
    std::vector<double> all;
    for (const json& event : events_of(runs, out)) {
      if (event["event"] == "step") all.push_back(event["clip_rate"]);
    }
    return all;
  };
  EXPECT_EQ(rates("stopped"), rates("whole"));
}

}  // namespace
}  // namespace minke
