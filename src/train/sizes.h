// The models that come with minke: configs/*.json, carried in the program.
#pragma once

#include <string>

#include "checkpoint/hf_config.h"

namespace minke::train {

// nano, tiny or small; Error for any other name.
checkpoint::HfConfig size_config(const std::string& name);

}  // namespace minke::train
