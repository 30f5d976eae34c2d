// The table of op cases, on every instruction set of this machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <span>

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

TEST_P(OpCaseTable, ErrorsStayWithinTheirBoundsAndBytesDoNotDependOnThreads) {
  const OpCases cases = all_op_cases();
  // A new number of threads starts threads anew, so many cases share each change.
  constexpr size_t kBatch = 100;
  for (size_t begin = 0; begin < cases.size(); begin += kBatch) {
    const auto batch = std::span(cases).subspan(begin, std::min(kBatch, cases.size() - begin));
    std::vector<std::unique_ptr<OpRun>> runs;
    std::vector<std::string> alone;
    set_thread_count(1);
    for (const OpCase& c : batch) {
      runs.push_back(c.bench ? nullptr : c.make());
      if (runs.back()) runs.back()->run();
      alone.push_back(runs.back() ? hash_outputs(*runs.back()) : "");
    }
    set_thread_count(3);
    for (size_t i = 0; i < batch.size(); ++i) {
      if (!runs[i]) continue;
      runs[i]->run();
      EXPECT_EQ(hash_outputs(*runs[i]), alone[i]) << batch[i].op << " " << batch[i].shape;
      for (const Check& check : runs[i]->check()) {
        EXPECT_LE(check.error, check.bound)
            << batch[i].op << " " << batch[i].shape << ": " << check.quantity;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, OpCaseTable, ::testing::ValuesIn(ops::available_isas()),
                         [](const auto& parameter) {
                           return std::string(ops::isa_name(parameter.param));
                         });

}  // namespace
}  // namespace minke::study
