#include "ops/isa.h"

#include <cpuid.h>

#include <atomic>
#include <cstdlib>

#include "base/error.h"

namespace minke::ops {
namespace {

// clang-tidy's compiler knows no "f16c" in __builtin_cpu_supports.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool has(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
             __builtin_cpu_supports("bmi2") != 0 && has_f16c();
    case Isa::kAvx512:
      return has(Isa::kAvx2) && __builtin_cpu_supports("avx512f") != 0 &&
             __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
             __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vbmi") != 0 &&
             __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
  }
  return false;
}

Isa choose() {
  const auto sets = available_isas();
  const char* forced = std::getenv("MINKE_ISA");
  if (forced == nullptr || *forced == '\0') return sets.back();
  for (const Isa set : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (isa_name(set) != forced) continue;
    if (!has(set))
      fail("MINKE_ISA={}: this processor lacks it; it has up to {}", forced, isa_name(sets.back()));
    return set;
  }
  fail("MINKE_ISA={}: expected scalar, avx2 or avx512", forced);
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> value{choose()};
  return value;
}

}  // namespace

Isa isa() { return current().load(std::memory_order_relaxed); }

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  MINKE_CHECK(false);
}

std::vector<Isa> available_isas() {
  std::vector<Isa> out;
  for (const Isa set : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (has(set)) out.push_back(set);
  }
  return out;
}

void set_isa(Isa isa) {
  MINKE_CHECK(has(isa), "instruction set {}", isa_name(isa));
  current() = isa;
}

}  // namespace minke::ops
