// Errors and checks.
//
// Error: a fault of a user, a file or a config. Its message says what, where (path, tensor, line),
// expected, got, and what to do; a command prints it as one line and exits 2.
// MINKE_CHECK: our own mistakes, on in every build; it logs and aborts. MINKE_DCHECK: the same in
// inner loops, on in debug builds only.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace minke {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws Error with the formatted message.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

namespace base {
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& message);
}  // namespace base
}  // namespace minke

#define MINKE_CHECK(condition, ...)                                                               \
  do {                                                                                            \
    if (!(condition)) [[unlikely]]                                                                \
      ::minke::base::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
  } while (false)

#ifdef NDEBUG
#define MINKE_DCHECK(condition, ...) static_cast<void>(0)
#else
#define MINKE_DCHECK(condition, ...) MINKE_CHECK(condition, __VA_ARGS__)
#endif
