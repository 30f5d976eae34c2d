#include "study/op_case.h"

namespace minke::study {

OpCases all_op_cases() {
  OpCases cases;
  add_matmul_cases(cases);
  add_matmul_fp8_cases(cases);
  add_matmul_int_cases(cases);
  add_quantize_cases(cases);
  add_attention_cases(cases);
  add_rope_cases(cases);
  add_norm_cases(cases);
  add_elementwise_cases(cases);
  add_permute_cases(cases);
  add_router_cases(cases);
  add_cross_entropy_cases(cases);
  return cases;
}

}  // namespace minke::study
