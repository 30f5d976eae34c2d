#include "study/decode_bytes.h"

namespace minke::study {

DecodeBytes decode_bytes(model::Transformer& model) {
  const model::ModelConfig& c = model.config();
  DecodeBytes out;
  // A layer's latents are the same for all.
  const double latents = static_cast<double>(c.latent_width()) *
                         static_cast<double>(size_of(dtype_of_precision(model.precision())));
  out.cache = latents * static_cast<double>(c.num_hidden_layers);
  out.mtp_cache = latents;
  const std::string mtp = fmt::format("model.layers.{}.", c.num_hidden_layers);
  const auto later = [&](const std::string& name) {
    constexpr std::string_view kLayers = "model.layers.";
    return name.starts_with(kLayers) &&
           std::strtoll(name.c_str() + kLayers.size(), nullptr, 10) > c.num_hidden_layers;
  };
  model.for_each_weight([&](model::Weight& weight) {
    const std::string& name = weight.pieces().front().name;
    const double each = static_cast<double>(weight.packed_size(model.precision(), false)) /
                        static_cast<double>(weight.count());
    const bool expert = name.find(".mlp.experts.") != std::string::npos;
    if (name == "lm_head.weight") {
      out.head += each;
    } else if (name.starts_with(mtp)) {
      (expert ? out.mtp_expert : out.mtp) += each;
    } else if (!later(name)) {
      (expert ? out.trunk_expert : out.trunk) += each;
    }
  });
  return out;
}

}  // namespace minke::study
