#include "app/inspect_train.h"

#include <fmt/format.h>

#include <array>

#include "base/progress.h"
#include "model/memory.h"

namespace minke::app {
namespace {

using model::Recompute;
using model::StepMemory;

constexpr auto kLevels = names(Recompute{});

struct Kind {
  const char* name;
  const char* key;
  size_t StepMemory::*bytes;
};
constexpr std::array<Kind, 6> kKinds = {{
    {"weights (FP32)", "weights", &StepMemory::weights},
    {"gradients (FP32)", "gradients", &StepMemory::gradients},
    {"moments (FP32)", "moments", &StepMemory::moments},
    {"operands of products", "operands", &StepMemory::operands},
    {"activations kept", "activations", &StepMemory::activations},
    {"workspace, at its most", "workspace", &StepMemory::workspace},
}};

std::array<StepMemory, kLevels.size()> all_levels(const model::ModelConfig& config,
                                                  const TrainShape& shape) {
  std::array<StepMemory, kLevels.size()> out;
  for (size_t i = 0; i < kLevels.size(); ++i) {
    out[i] = model::step_memory(config, shape.precision, shape.sequences, shape.positions,
                                kLevels[i].value);
  }
  return out;
}

}  // namespace

void print_train_memory(const model::ModelConfig& config, const TrainShape& shape) {
  const auto levels = all_levels(config, shape);
  fmt::print("\n{:<30}", fmt::format("a step of {} x {}, {}", shape.sequences, shape.positions,
                                     spelling(shape.precision)));
  for (const auto& level : kLevels) fmt::print(" {:>9}", level.name);
  fmt::print("   (--recompute)\n");
  const auto row = [&](const char* name, auto&& bytes_of) {
    fmt::print("  {:<28}", name);
    for (const StepMemory& memory : levels) {
      fmt::print(" {:>9}", format_bytes(static_cast<double>(bytes_of(memory))));
    }
    fmt::print("\n");
  };
  for (const Kind& kind : kKinds) {
    row(kind.name, [&](const StepMemory& memory) { return memory.*kind.bytes; });
  }
  row("in all", [](const StepMemory& memory) { return memory.total(); });
}

nlohmann::ordered_json train_memory_json(const model::ModelConfig& config,
                                         const TrainShape& shape) {
  const auto levels = all_levels(config, shape);
  nlohmann::ordered_json out;
  for (size_t i = 0; i < kLevels.size(); ++i) {
    nlohmann::ordered_json& level = out[kLevels[i].name];
    for (const Kind& kind : kKinds) level[kind.key] = levels[i].*kind.bytes;
    level["total"] = levels[i].total();
  }
  return out;
}

}  // namespace minke::app
