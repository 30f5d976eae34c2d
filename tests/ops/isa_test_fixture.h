// Runs a test, or a part of one, on every instruction set of the machine; and compares bytes.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "ops/isa.h"
#include "tensor/tensor.h"

namespace minke::ops {

class EveryIsa : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(before_); }

 private:
  const Isa before_ = isa();
};

template <typename Body>
void on_every_set(Body&& body) {
  const Isa chosen = isa();
  for (const Isa set : available_isas()) {
    SCOPED_TRACE(isa_name(set));
    set_isa(set);
    body();
  }
  set_isa(chosen);
}

inline std::string isa_parameter_name(const ::testing::TestParamInfo<Isa>& info) {
  return std::string(isa_name(info.param));
}

inline std::vector<uint8_t> bytes_of(const Tensor& x) {
  const auto* data = static_cast<const uint8_t*>(x.raw());
  return {data, data + x.bytes()};
}

}  // namespace minke::ops

#define MINKE_ON_EVERY_ISA(Fixture)                                                           \
  INSTANTIATE_TEST_SUITE_P(Isa, Fixture, ::testing::ValuesIn(::minke::ops::available_isas()), \
                           ::minke::ops::isa_parameter_name)
