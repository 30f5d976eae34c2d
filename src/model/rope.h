// Angles of the rotary embedding, YaRN included (Peng et al. 2023; DeepSeek-V2 report,
// section 3.1.4), and the scale of attention's scores. Both come from the config, never from a
// length.
#pragma once

#include "model/config.h"
#include "tensor/tensor.h"

namespace minke::model {

// cos and sin of every position below a length that grows on demand; amplitude included.
class RopeTables {
 public:
  explicit RopeTables(const ModelConfig& config);
  void reserve(int64_t positions);
  Tensor cos() const { return cos_; }  // [positions, rope / 2] FP32
  Tensor sin() const { return sin_; }

 private:
  std::vector<double> frequency_;
  double amplitude_ = 1;
  OwnedTensor cos_, sin_;
};

// The rope / 2 angles a position, in radians, and the factor on cos and sin.
std::vector<double> rope_frequencies(const ModelConfig& config);
double rope_amplitude(const ModelConfig& config);
// (nope + rope)^-0.5, times YaRN's square where mscale_all_dim asks for it.
double softmax_scale(const ModelConfig& config);

}  // namespace minke::model
