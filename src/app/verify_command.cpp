#include "app/verify_command.h"

#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "app/choices.h"
#include "base/error.h"
#include "ops/isa.h"
#include "study/verify.h"
#include "study/verify_fp8.h"
#include "study/verify_write.h"

namespace minke::app {
namespace {

constexpr const char* kVerifyFooter =
    R"(A folder to verify holds config.json, model.safetensors (or its shards),
golden.safetensors and golden.json. Whatever of the results it lacks is not compared, and said.
One that holds fp8.safetensors alone is verified for its codes, scales and products of FP8.
Exit code: 0 all within bounds, 1 something is not, 2 a folder that cannot be read.

Examples:
  minke verify tests/golden/v3 --precision bf16
  minke verify --write check/ --model config.json    a folder made with the float64 reference)";

struct Command {
  std::vector<std::string> folders;
  model::Precision precision = model::Precision::kF32;
  std::string write;
  study::WriteOptions how;
  std::string model;
};

std::string bound_text(double bound) { return bound == 0 ? "equal" : fmt::format("{:.2e}", bound); }

void print(const study::Verdict& v) {
  std::string what = v.worst;
  if (!v.worst.empty() && v.tensors > 1) what = fmt::format("worst of {}: {}", v.tensors, v.worst);
  if (!v.note.empty()) what += (what.empty() ? "" : "; ") + v.note;
  const std::string share = v.bound > 0 ? fmt::format("{:.2f}", v.error / v.bound) : "";
  fmt::print("  {:28} {:>9.2e} {:>9} {:>6}  {:4}  {}\n", v.quantity, v.error, bound_text(v.bound),
             share, v.passed() ? "ok" : "FAIL", what);
}

bool print(const std::string& head, const study::Verification& result,
           const std::vector<std::string>& lacks) {
  fmt::print("{}, {}\n", head, ops::isa_name());
  fmt::print("  {:28} {:>9} {:>9} {:>6}\n", "quantity", "error", "bound", "share");
  int64_t failed = 0;
  for (const study::Verdict& verdict : result.verdicts) {
    print(verdict);
    failed += verdict.passed() ? 0 : 1;
  }
  if (!lacks.empty()) {
    fmt::print("  not compared, for the folder lacks it: {}\n", fmt::join(lacks, ", "));
  }
  fmt::print("  {}\n", failed == 0 ? "verified"
                                   : fmt::format("FAILED: {} of {} quantities", failed,
                                                 result.verdicts.size()));
  return failed == 0;
}

bool verify(const std::string& path, model::Precision precision) {
  const fs::path fp8 = fs::path(path) / study::kFp8File;
  if (fs::exists(fp8) && !fs::exists(fs::path(path) / "config.json")) {
    return print(path + "  codes, scales and products of FP8", study::verify_fp8(fp8), {});
  }
  const study::GoldenFolder folder = study::read_golden_folder(path);
  return print(fmt::format("{}  {}", path, spelling(precision)),
               study::verify(folder, {precision, {}}), folder.lacks);
}

void run_verify(const Command& command) {
  if (!command.write.empty()) {
    if (command.model.empty()) {
      fail("--write needs --model: a config.json, or a folder with a model");
    }
    study::WriteOptions how = command.how;
    how.model = command.model;
    study::write_golden_folder(command.write, how);
    fmt::print("{}: verify it with `minke verify {}`\n", command.write, command.write);
  } else if (command.folders.empty()) {
    fail("no folder to verify; see `minke verify --help`");
  }
  bool verified = true;
  for (const std::string& folder : command.folders) verified &= verify(folder, command.precision);
  if (!verified) throw CLI::RuntimeError(1);
}

}  // namespace

void add_verify_command(CLI::App& app) {
  const auto command = std::make_shared<Command>();
  CLI::App* verify = app.add_subcommand(
      "verify", "Compare this program with what an oracle computed, quantity by quantity");
  verify->footer(kVerifyFooter);
  verify->add_option("DIR", command->folders, "Folders with a model and an oracle's results");
  add_choice(*verify, "--precision", command->precision, "Precision to compute in");
  verify->add_option("--write", command->write,
                     "Make such a folder, with the float64 reference as the oracle");
  verify->add_option("--model", command->model,
                     "For --write: a config.json (random weights) or a folder with a model");
  verify->add_option("--seed", command->how.seed, "For --write: of weights and tokens")
      ->capture_default_str();
  verify->add_option("--sequences", command->how.sequences, "For --write: sequences of the batch")
      ->capture_default_str();
  verify->add_option("--positions", command->how.positions, "For --write: tokens of a sequence")
      ->capture_default_str();
  verify->add_flag("--documents", command->how.documents,
                   "For --write: several documents a sequence, which attention does not cross");
  verify->add_option("--prompt", command->how.prompt, "For --write: tokens of the greedy prompt")
      ->capture_default_str();
  verify->add_option("--text", command->how.text, "For --write: tokens of the greedy text")
      ->capture_default_str();
  verify->callback([command] { run_verify(*command); });
}

}  // namespace minke::app
