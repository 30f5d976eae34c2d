// The pages that are carried in the program: each is one file that needs nothing else.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace minke::study {

// pages/NAME.html with the style and the drawing code that all pages share, and with `data`, which
// its script reads.
std::string page(const std::string& name, const nlohmann::ordered_json& data);

}  // namespace minke::study
