#include "base/version.h"

#include "base/commit.h"  // written by the build, see cmake/commit.cmake

namespace minke {

std::string_view version() { return MINKE_VERSION; }

std::string_view commit() { return MINKE_COMMIT; }

std::string_view compiler() {
#ifdef __clang__
  return __VERSION__;
#else
  return "GCC " __VERSION__;
#endif
}

}  // namespace minke
