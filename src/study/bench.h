// Speed as a share of a limit: every hot op beside a peak that is measured right before it and
// after it, because neighbours on a shared machine change both.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "study/op_case.h"

namespace minke::study {

struct BenchResult {
  std::string name, shape;
  int threads = 1;
  double value = 0;            // GFLOP/s or GB/s, the median of several bursts
  std::string unit;            // "GFLOP/s", "GB/s"
  double peak = 0;             // in the same unit
  double share = 0;            // the median of value / peak, burst by burst
  std::string_view peak_name;  // what the peak is: "BF16 peak", "read and write", ...
};

struct BenchOptions {
  std::string only;          // a part of an op's name or of its shape; empty: all
  std::vector<int> threads;  // counts of threads, one after the other
  int bursts = 7;
  double burst_seconds = 0.02;
};

// Calls on_result for each large case of the table and number of threads.
void bench_kernels(const BenchOptions& options,
                   const std::function<void(const BenchResult&)>& on_result);

}  // namespace minke::study
