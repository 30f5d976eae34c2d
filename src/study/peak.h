// The measured limits that speeds are shares of: taken in the same run, on the same pages, with the
// instruction set and number of threads in use, because neighbours and page placement change them.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "study/op_case.h"

namespace minke::study {

double median(std::vector<double> x);  // of one number at least

// FLOPs a second of the arithmetic alone (a multiply-add is two): kComputeF32 or kComputeBF16.
// The median of a few short tries; about 20 ms.
double peak_flops(Limit limit);

// Bytes a second when all of `data` is read in order; the median of a few tries. Meant for spans
// that no cache holds, or, for what is to be compared with a cache's speed, for ones that it does.
double read_bandwidth(std::span<const std::byte> data);
// The same, read and written back, counting both. Changes the data.
double update_bandwidth(std::span<std::byte> data);
// All of `from` read and all of `to` written, counting both. Changes `to`.
double move_bandwidth(std::span<std::byte> to, std::span<const std::byte> from);

}  // namespace minke::study
