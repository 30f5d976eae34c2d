// The table of op cases, on every instruction set of this machine.
#include <gtest/gtest.h>

#include <map>

#include "base/hash.h"
#include "base/thread_pool.h"
#include "ops/isa.h"
#include "study/op_case.h"

namespace minke::study {
namespace {

std::string hash_outputs(OpRun& run) {
  Hasher hasher;
  for (const Tensor& output : run.outputs()) hasher.add(output.raw(), output.bytes());
  return hasher.hex();
}

class OpCaseTable : public ::testing::TestWithParam<ops::Isa> {
 protected:
  void SetUp() override { ops::set_isa(GetParam()); }
  void TearDown() override {
    ops::set_isa(isa_);
    set_thread_count(threads_);
  }

 private:
  const ops::Isa isa_ = ops::isa();
  const int threads_ = thread_count();
};

TEST_P(OpCaseTable, ErrorsStayWithinTheirBounds) {
  for (const OpCase& c : all_op_cases()) {
    if (c.bench) continue;
    const auto run = c.make();
    run->run();
    for (const Check& check : run->check()) {
      EXPECT_LE(check.error, check.bound) << c.op << " " << c.shape << ": " << check.quantity;
    }
  }
}

TEST_P(OpCaseTable, BytesDoNotDependOnThreads) {
  std::vector<std::string> hashes[2];
  const OpCases cases = all_op_cases();
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    for (const OpCase& c : cases) {
      if (c.bench) continue;
      const auto run = c.make();
      run->run();
      hashes[threads == 1 ? 0 : 1].push_back(hash_outputs(*run));
    }
  }
  size_t i = 0;
  for (const OpCase& c : cases) {
    if (c.bench) continue;
    EXPECT_EQ(hashes[0][i], hashes[1][i]) << c.op << " " << c.shape;
    ++i;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, OpCaseTable, ::testing::ValuesIn(ops::available_isas()),
                         [](const auto& parameter) {
                           return std::string(ops::isa_name(parameter.param));
                         });

}  // namespace
}  // namespace minke::study
