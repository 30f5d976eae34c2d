#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace minke::model {
namespace {

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

}  // namespace

std::vector<double> rope_frequencies(const ModelConfig& config) {
  const auto dim = static_cast<double>(config.qk_rope_head_dim);
  std::vector<double> frequency;
  for (int64_t i = 0; i < config.qk_rope_head_dim; i += 2) {
    frequency.push_back(std::pow(config.rope_theta, -static_cast<double>(i) / dim));
  }
  if (!config.rope_scaling) return frequency;
  const YarnScaling& yarn = *config.rope_scaling;
  const auto original = static_cast<double>(yarn.original_max_position_embeddings);
  // The dimension whose wave turns `turns` times within the original length.
  const auto correction = [&](double turns) {
    return dim * std::log(original / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.rope_theta));
  };
  const double low = std::max(std::floor(correction(yarn.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(yarn.beta_slow)), dim - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequency.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequency[i] = frequency[i] / yarn.factor * ramp + frequency[i] * (1 - ramp);
  }
  return frequency;
}

double rope_amplitude(const ModelConfig& config) {
  if (!config.rope_scaling) return 1;
  const YarnScaling& yarn = *config.rope_scaling;
  if (!yarn.mscale) return yarn_mscale(yarn.factor, 1);
  return yarn_mscale(yarn.factor, *yarn.mscale) / yarn_mscale(yarn.factor, yarn.mscale_all_dim);
}

double softmax_scale(const ModelConfig& config) {
  double scale = 1 / std::sqrt(static_cast<double>(config.qk_head_dim()));
  if (config.rope_scaling && config.rope_scaling->mscale_all_dim != 0) {
    const double m = yarn_mscale(config.rope_scaling->factor, config.rope_scaling->mscale_all_dim);
    scale *= m * m;
  }
  return scale;
}

RopeTables::RopeTables(const ModelConfig& config)
    : frequency_(rope_frequencies(config)), amplitude_(rope_amplitude(config)) {}

void RopeTables::reserve(int64_t positions) {
  const int64_t had = cos_.empty() ? 0 : cos_.dim(0);
  if (had >= positions) return;
  positions = std::max(positions, 2 * had);  // a text that grows by a token asks every time
  const auto half = static_cast<int64_t>(frequency_.size());
  cos_ = OwnedTensor(DType::kF32, {positions, half});
  sin_ = OwnedTensor(DType::kF32, {positions, half});
  float *c = cos_.data<float>(), *s = sin_.data<float>();
  for (int64_t p = 0; p < positions; ++p) {
    for (const double f : frequency_) {
      const double angle = static_cast<double>(p) * f;
      *c++ = static_cast<float>(std::cos(angle) * amplitude_);
      *s++ = static_cast<float>(std::sin(angle) * amplitude_);
    }
  }
}

}  // namespace minke::model
