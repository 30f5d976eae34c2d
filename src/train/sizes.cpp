#include "train/sizes.h"

#include <string_view>

namespace minke::train {

std::string_view embedded(std::string_view name);  // generated: cmake/embed.cmake

checkpoint::HfConfig size_config(const std::string& name) {
  const std::string file = name + ".json";
  const std::string_view text = embedded(file);
  if (text.empty()) fail("--size {}: expected nano, tiny or small, or a --model config.json", name);
  return checkpoint::parse_config(text, "configs/" + file);
}

}  // namespace minke::train
