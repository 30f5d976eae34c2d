// What the machine can do at the most, on the instruction set in use, by doing it once: the
// yardstick of every speed. The caller takes the time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace minke::ops {

// Does multiply-adds of FP32, or of pairs of BF16, on every thread; returns the FLOPs done. A unit
// of `rounds` is some 24 vectors' worth.
double multiply_f32(int64_t rounds);
double multiply_bf16(int64_t rounds);

// Reads all of `data`, or reads and changes it, in order, in chunks that the threads share.
void read_memory(std::span<const std::byte> data);
void update_memory(std::span<std::byte> data);
// Reads all of `from` and writes all of `to`, in step.
void move_memory(std::span<std::byte> to, std::span<const std::byte> from);

}  // namespace minke::ops
