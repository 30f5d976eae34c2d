// One table of cases for every op: it drives correctness against `ref`, and speed in `minke bench
// kernels`. To add an op: write its reference (ref/), then a file cases_<name>.cpp here that
// appends to the table. compare.h has what cases share.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace minke::study {

// One compared quantity: `error` must not exceed `bound`, which is derived from formats, the length
// of sums and norms, never tuned; the derivation stands beside the code that computes it.
struct Check {
  std::string quantity;
  double error = 0, bound = 0;
};

// Inputs and outputs of one case, made from a seed.
class OpRun {
 public:
  virtual ~OpRun() = default;
  virtual void run() = 0;                  // calls the op once, outputs overwritten
  virtual std::vector<Check> check() = 0;  // outputs of the last run() against ref
  // What run() writes: the bytes must be the same for any number of threads.
  virtual std::vector<Tensor> outputs() { return {}; }
};

// Whose peak the speed is a share of: multiply-adds, reading and writing memory, or reading alone.
enum class Limit { kComputeF32, kComputeBF16, kMemory, kRead };

struct OpCase {
  std::string op;     // the op's name: rms_norm_backward
  std::string shape;  // 512x1408x2048 bf16
  Limit limit = Limit::kMemory;
  // FLOPs of a run, or bytes moved at the least (read + written) where memory is the limit.
  double work = 0;
  // Of these bytes, those written where nothing is read; 0: what is written was read.
  double fresh = 0;
  // A large shape, for speed; correctness is shown on the small ones (tiny, odd, every remainder).
  bool bench = false;
  std::function<std::unique_ptr<OpRun>()> make;
};

using OpCases = std::vector<OpCase>;
void add_matmul_cases(OpCases& cases);      // matmul, matmul_wgrad, grouped
void add_matmul_fp8_cases(OpCases& cases);  // matmul with codes on the right
void add_matmul_int_cases(OpCases& cases);  // matmul with integers on the right
void add_quantize_cases(OpCases& cases);    // to E4M3 and E5M6, matmul_wgrad_fp8
void add_attention_cases(OpCases& cases);   // attention and its backward, latent_attention
void add_rope_cases(OpCases& cases);
void add_norm_cases(OpCases& cases);         // rms_norm and its backward
void add_elementwise_cases(OpCases& cases);  // swiglu and its backward, convert, add, adamw, ...
void add_permute_cases(OpCases& cases);      // permutation by expert, embedding
void add_router_cases(OpCases& cases);       // route, sequence_balance, router_backward
void add_cross_entropy_cases(OpCases& cases);
OpCases all_op_cases();

}  // namespace minke::study
