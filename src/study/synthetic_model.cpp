#include "study/synthetic_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/rng.h"
#include "checkpoint/quantize.h"
#include "checkpoint/stored_values.h"
#include "model/transformer.h"
#include "tensor/integers.h"
#include "tensor/scales.h"

namespace minke::study {
namespace {

// So many numbers are drawn; every tensor is a run of them, from a place of its own on.
constexpr size_t kNumbers = size_t{1} << 22;
// Codes use most of their range, and overflow nowhere.
constexpr double kCodeDeviation = 64;
// Of integers of 8 bits, and of 4 where all are as likely.
constexpr double kInt8Deviation = 32, kInt4Deviation = 4.6;

struct DrawnNumbers {
  std::vector<bf16> bf16s;
  std::vector<uint8_t> codes, bytes;
  std::vector<int8_t> integers;

  explicit DrawnNumbers(double deviation) {
    Rng rng(stream_key(1, 0, "synthetic"));
    for (size_t i = 0; i < kNumbers; ++i) {
      const double x = rng.normal();
      bf16s.emplace_back(static_cast<float>(x * deviation));
      codes.push_back(e4m3_encode(static_cast<float>(x * kCodeDeviation)));
      bytes.push_back(static_cast<uint8_t>(rng.below(256)));
      integers.push_back(
          static_cast<int8_t>(std::clamp(std::round(x * kInt8Deviation), -127.0, 127.0)));
    }
  }
};

template <typename X>
void write_run(checkpoint::SafetensorsWriter& writer, uint64_t bytes, const std::vector<X>& from,
               size_t place) {
  for (size_t at = place % from.size(); bytes > 0; at = 0) {
    const uint64_t now = std::min<uint64_t>(bytes, (from.size() - at) * sizeof(X));
    writer.write_bytes({reinterpret_cast<const std::byte*>(from.data() + at), now});
    bytes -= now;
  }
}

// What a checkpoint of that config holds.
std::vector<checkpoint::TensorSpec> tensors_of(const model::ModelConfig& config) {
  model::Transformer shape(config, model::Precision::kBF16);
  std::vector<checkpoint::TensorSpec> specs;
  shape.for_each_weight([&](model::Weight& weight) {
    for (const model::Piece& piece : weight.pieces()) {
      if (const auto format = checkpoint::integers_of(config, piece.name)) {
        specs.emplace_back(piece.name, *format, int_codes_shape(piece.shape, *format));
        specs.emplace_back(checkpoint::integer_scale_name(piece.name), DType::kBF16,
                           int_scale_shape(piece.shape, *format));
        continue;
      }
      const bool codes = config.quantization && checkpoint::is_fp8_weight(piece.name);
      specs.emplace_back(piece.name, codes ? DType::kE4M3 : DType::kBF16, piece.shape);
      if (codes) {
        specs.emplace_back(checkpoint::scale_name(piece.name), DType::kF32,
                           scale_shape(piece.shape, kBlock128x128));
      }
    }
  });
  shape.for_each_router([&](int64_t, const model::Router& router) {
    if (router.has_bias()) specs.emplace_back(router.bias_name, DType::kF32, router.bias_E.shape());
  });
  return specs;
}

void write_random(checkpoint::SafetensorsWriter& writer, const checkpoint::TensorSpec& spec,
                  const DrawnNumbers& numbers, const model::ModelConfig& config) {
  const uint64_t size = spec.bytes();
  const size_t place = stream_key(2, 0, spec.name);
  if (spec.dtype == "F8_E4M3") {
    write_run(writer, size, numbers.codes, place);
  } else if (spec.dtype == "I8") {
    write_run(writer, size, numbers.integers, place);
  } else if (spec.dtype == "U8") {
    write_run(writer, size, numbers.bytes, place);
  } else if (spec.name.ends_with("_scale")) {
    const std::string weight = spec.name.substr(0, spec.name.size() - std::strlen("_scale"));
    const bool four = checkpoint::integers_of(config, weight) == DType::kU8;
    const double each = config.initializer_range / (four ? kInt4Deviation : kInt8Deviation);
    write_run(writer, size, std::vector<bf16>(1024, bf16(static_cast<float>(each))), 0);
  } else if (spec.dtype == "BF16" && spec.name.find("norm.weight") == std::string::npos) {
    write_run(writer, size, numbers.bf16s, place);
  } else if (spec.dtype == "BF16") {
    write_run(writer, size, std::vector<bf16>(1024, bf16(1.0F)), 0);
  } else {
    const auto scale = static_cast<float>(config.initializer_range / kCodeDeviation);
    write_run(writer, size, std::vector<float>(1024, spec.name.ends_with("_bias") ? 0.0F : scale),
              0);
  }
}

}  // namespace

void write_synthetic_model(const fs::path& folder, const checkpoint::HfConfig& config) {
  const std::vector<checkpoint::TensorSpec> specs = tensors_of(config.model);
  uint64_t bytes = 0;
  for (const checkpoint::TensorSpec& spec : specs) bytes += spec.bytes();
  const uint64_t left = free_disk_bytes(folder);
  if (left < 2 * bytes) {
    fail("{}: the model takes {} and as much again once packed, and {} of the disk is left",
         folder.string(), format_bytes(static_cast<double>(bytes)),
         format_bytes(static_cast<double>(left)));
  }
  write_file_atomic(folder / "config.json", checkpoint::config_text(config));
  const DrawnNumbers numbers(config.model.initializer_range);
  checkpoint::SafetensorsWriter writer(folder / "model.safetensors", specs);
  Progress progress("writing a random model", bytes, Progress::Unit::kBytes);
  for (const checkpoint::TensorSpec& spec : writer.order()) {
    stop_if_interrupted();
    write_random(writer, spec, numbers, config.model);
    progress.add(spec.bytes());
  }
  writer.finish();
}

}  // namespace minke::study
