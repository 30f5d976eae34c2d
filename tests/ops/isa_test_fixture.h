// Runs a test on every instruction set of the machine.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "ops/isa.h"

namespace minke::ops {

class EveryIsa : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(before_); }

 private:
  const Isa before_ = isa();
};

inline std::string isa_parameter_name(const ::testing::TestParamInfo<Isa>& info) {
  return std::string(isa_name(info.param));
}

}  // namespace minke::ops

#define MINKE_ON_EVERY_ISA(Fixture)                                                           \
  INSTANTIATE_TEST_SUITE_P(Isa, Fixture, ::testing::ValuesIn(::minke::ops::available_isas()), \
                           ::minke::ops::isa_parameter_name)
