// Which minke this is, for --version and for the manifest of a run.
#pragma once

#include <string_view>

namespace minke {

std::string_view version();   // 0.1.0
std::string_view commit();    // git describe when this was built; "unknown" outside a repository
std::string_view compiler();  // GCC 12.2.0

}  // namespace minke
