#include "study/verify.h"

#include <gtest/gtest.h>

#include "ops/isa.h"

namespace minke::study {
namespace {

TEST(X, Y) {
  using model::Precision;
  for (const char* name : {"v3","v3-yarn","v3-yarn-ramp", "v3-negative-bias", "v3-odd-sizes", "v3-packed-mtp2", "moonlight",    "kimi-k2", "v2-lite",      "v2"}) {
    for (ops::Isa isa : ops::available_isas()) for (Precision p : {Precision::kF32, Precision::kBF16}) {
      ops::set_isa(isa);
      const GoldenFolder folder = read_golden_folder(fs::path(MINKE_GOLDEN_DIR) / name);
      fmt::print("== {} {} {}\n", name, ops::isa_name(), p == Precision::kF32 ? "fp32" : "bf16");
      const Verification v = verify(folder, {p, {}});
      for (const Verdict& r : v.verdicts) {
        if (isa == ops::Isa::kAvx512 || !r.passed()) fmt::print("{:28} {:4} {:10.2e} {:10.2e} {:6.3f} {:6} {} {}\n", r.quantity, r.tensors, r.error, r.bound,
                   r.error / r.bound, r.passed() ? "ok" : "FAIL", r.worst, r.note);
      }
    }
  }
}
}
}
