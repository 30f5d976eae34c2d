#include "train/context.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace minke::train {

std::optional<double> context_factor_of(const Options& options) {
  const std::string& text = options.extend_context;
  if (text.empty()) return {};
  double factor = 0;
  const char* end = text.data() + text.size();
  const auto [at, fault] = std::from_chars(text.data(), end, factor);
  if (fault != std::errc() || std::string_view(at, end) != "x" || !(factor > 1 && factor <= 1000)) {
    fail("--extend-context {}: expected a factor above 1, such as 4x", text);
  }
  return factor;
}

void extend_context(model::ModelConfig& config, double factor, std::optional<int64_t> trained) {
  if (!config.rope_scaling) {
    model::YarnScaling& yarn = config.rope_scaling.emplace();
    yarn.original_max_position_embeddings =
        std::min(trained.value_or(INT64_MAX), config.max_position_embeddings);
    yarn.mscale = 1;
    yarn.mscale_all_dim = 1;
  }
  model::YarnScaling& yarn = *config.rope_scaling;
  yarn.factor *= factor;
  const double context = yarn.factor * static_cast<double>(yarn.original_max_position_embeddings);
  config.max_position_embeddings =
      std::max(config.max_position_embeddings, static_cast<int64_t>(std::llround(context)));
  config.check();
}

}  // namespace minke::train
