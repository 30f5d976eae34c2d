#include "study/verify_table.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "study/verify_bounds.h"

namespace minke::study {
namespace {

// The kind of quantity that a name belongs to: one row of the table.
std::string kind_of(const std::string& name) {
  if (name.starts_with("grad.")) return "gradients";
  if (name.starts_with("latent.")) return "latent";
  if (name.ends_with(".weights")) return "gate weights";
  if (name.ends_with(".bias_after")) return "bias after the update";
  return name;
}

// Rows in the order in which people ask: the answer first, then what led to it.
int rank_of(const std::string& kind) {
  constexpr const char* kOrder[] = {"logits", "hidden",    "loss",         "balance",
                                    "total",  "gradients", "gate weights", "counts",
                                    "bias",   "latent",    "experts"};
  int rank = 0;
  for (const char* first : kOrder) {
    if (kind.starts_with(first)) return rank;
    ++rank;
  }
  return rank;
}

// The bias is FP32 in the engine and in the file: each rounds once or twice, to 2^-24 of what is
// there.
double bias_bound(std::span<const double> want, double gamma) {
  double largest = 0;
  for (const double b : want) largest = std::max(largest, std::abs(b));
  return 4 * kRoundoffF32 * (largest + gamma);
}

}  // namespace

void VerdictTable::add(const std::string& kind, const std::string& name, double error,
                       double bound) {
  const auto share = [](double e, double b) {
    return e == 0 ? 0 : b == 0 ? std::numeric_limits<double>::infinity() : e / b;
  };
  const auto at = std::ranges::find(verdicts_, kind, &Verdict::quantity);
  if (at == verdicts_.end()) {
    verdicts_.push_back({kind, 1, error, bound, name, ""});
    return;
  }
  ++at->tensors;
  if (share(error, bound) <= share(at->error, at->bound)) return;
  at->error = error;
  at->bound = bound;
  at->worst = name;
}
Verification VerdictTable::finish() {
  for (Verdict& v : verdicts_) {
    if (v.worst == v.quantity || v.quantity.starts_with(v.worst + ",")) v.worst.clear();
    // Such as the gradients behind a norm of one channel.
    if (v.bound >= 1 && v.note.empty()) v.note = "zero, but for rounding";
  }
  std::ranges::stable_sort(verdicts_, {}, [](const Verdict& v) { return rank_of(v.quantity); });
  return {std::move(verdicts_)};
}

std::string route_name(int64_t layer, const char* what) {
  return fmt::format("route.{}.{}", layer, what);
}

std::string text_note(int64_t agrees, int64_t of) {
  return agrees == of ? fmt::format("all {} tokens agree", of)
                      : fmt::format("agrees for {} of {} tokens", agrees, of);
}

ReferenceOptions as_decoded(ReferenceOptions options) {
  options.gradients = false;
  options.absorbed = true;
  options.depths = 0;
  return options;
}

void compare_numbers(VerdictTable& table, const ReferenceResult& got, const Values& want,
                     const GoldenFolder& folder, const BoundOf& bound) {
  for (const auto& [name, numbers] : want) {
    if (!folder.has(name)) continue;
    const std::vector<double>& mine = got.numbers.at(name);
    if (name.ends_with(".bias_after")) {
      table.add(kind_of(name), name, largest_error(mine, numbers),
                bias_bound(numbers, folder.batch.gamma));
    } else {
      table.add(kind_of(name), name, relative_error(mine, numbers), bound(name));
    }
  }
  for (const auto& [layer, counts] : folder.golden.counts) {
    double error = 0;
    for (size_t e = 0; e < counts.size(); ++e) {
      error += std::abs(static_cast<double>(got.counts.at(layer)[e] - counts[e]));
    }
    table.add("counts", route_name(layer, "counts"), error, 0);
  }
}

void keep_decoded(Values& numbers, const std::vector<int64_t>& lengths, int64_t positions) {
  for (auto& [name, values] : numbers) {
    if (name != "hidden" && !name.starts_with("latent.")) continue;
    const int64_t row = std::ssize(values) / std::ssize(lengths);
    for (size_t b = 0; b < lengths.size(); ++b) {
      const auto begin = values.begin() + static_cast<int64_t>(b) * row;
      std::fill(begin + row / positions * lengths[b], begin + row, 0.0);
    }
  }
}

void compare_decoded(VerdictTable& table, const ReferenceResult& decoded,
                     const GoldenFolder& folder, const BoundOf& bound,
                     const std::vector<int64_t>& lengths) {
  Values want;
  for (const auto& [name, numbers] : decoded.numbers) {
    if (folder.has(name)) want[name] = folder.golden.numbers.at(name);
  }
  keep_decoded(want, lengths, folder.batch.positions);
  for (const auto& [name, numbers] : want) {
    table.add(name == "hidden" ? "hidden, decoded" : "latent cache, decoded", name,
              relative_error(decoded.numbers.at(name), numbers), bound(name));
  }
}

}  // namespace minke::study
