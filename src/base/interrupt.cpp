#include "base/interrupt.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>

namespace minke {
namespace {

std::atomic<bool> g_interrupted{false};
std::atomic<const char*> g_what{nullptr};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not lock");

constexpr int kExitInterrupted = 130;

void say(const char* text) {
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, text, std::strlen(text));
}

// Only what is async-signal-safe: lock-free atomics, strlen, write and _exit.
void on_signal(int /*signal*/) {
  if (g_interrupted.exchange(true)) {
    say("\nleaving at once\n");
    ::_exit(kExitInterrupted);
  }
  say("\n");
  say(g_what);
  say("; once more leaves at once\n");
}

}  // namespace

void catch_interrupts(const char* what) {
  g_what = what;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  // Reads and writes under way go on: the first signal must not look like an I/O error.
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM}) {
    MINKE_CHECK(::sigaction(signal, &action, nullptr) == 0, "signal {}", signal);
  }
}

bool interrupted() { return g_interrupted.load(std::memory_order_relaxed); }

void stop_if_interrupted() {
  if (interrupted()) throw Interrupted("interrupted; what was half done is removed");
}

}  // namespace minke
