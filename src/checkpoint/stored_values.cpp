#include "checkpoint/stored_values.h"

#include <algorithm>

#include "base/error.h"
#include "base/thread_pool.h"
#include "tensor/scales.h"

namespace minke::checkpoint {
namespace {

void widen(std::span<float> out, std::span<const bf16> in) {
  constexpr int64_t kChunk = 1 << 18;
  parallel_for(std::ssize(in), kChunk, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      out[i] = static_cast<float>(in[i]);
    }
  });
}

}  // namespace

std::string scale_name(const std::string& weight) { return weight + "_scale_inv"; }

std::optional<DType> integers_of(const model::ModelConfig& config, std::string_view name) {
  if (!config.quantization) return {};
  const int64_t experts = config.quantization->expert_bits, head = config.quantization->head_bits;
  const auto holds = [&](std::string_view part) { return name.find(part) != name.npos; };
  if (name == "lm_head.weight" || name.ends_with(".shared_head.head.weight")) {
    return head == 8 ? std::optional(DType::kI8) : std::nullopt;
  }
  if (experts == 0 || !name.ends_with("_proj.weight")) return {};
  if (holds(".mlp.shared_experts.")) return DType::kI8;
  if (!holds(".mlp.experts.")) return {};
  return experts == 8 ? DType::kI8 : DType::kU8;
}

std::string integer_scale_name(const std::string& weight) { return weight + "_scale"; }

std::vector<float> stored_values(const CheckpointFolder& files, const std::string& name,
                                 const Shape& shape) {
  const Tensor stored = files.tensor(name);
  const auto where = [&] { return files.file_of(name).path().string() + ": " + name; };
  if (stored.shape() != shape) {
    fail("{}: shape {}, expected {} by config.json", where(), to_string(stored.shape()),
         to_string(shape));
  }
  std::vector<float> out(static_cast<size_t>(shape.count()));
  switch (stored.dtype()) {
    case DType::kF32: {
      const auto in = stored.span<float>();
      std::ranges::copy(in, out.begin());
      return out;
    }
    case DType::kBF16:
      widen(out, stored.span<bf16>());
      return out;
    case DType::kE4M3:
      if (shape.rank() == 2) {
        const Tensor scale =
            files.tensor(scale_name(name), DType::kF32, scale_shape(shape, kBlock128x128));
        const Tensor x(out.data(), shape);
        parallel_for(scale.dim(0), 1, [&](int64_t begin, int64_t end) {
          const int64_t first = begin * kBlock128x128.rows,
                        rows = std::min(shape[0], end * kBlock128x128.rows) - first;
          dequantize_e4m3(x.rows(first, rows), stored.rows(first, rows),
                          scale.rows(begin, end - begin), kBlock128x128);
        });
        return out;
      }
      [[fallthrough]];
    default:
      fail("{}: dtype {}, expected BF16, F32, or F8_E4M3 for a matrix", where(),
           name_of(stored.dtype()));
  }
}

}  // namespace minke::checkpoint
