#include "base/interrupt.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "base/error.h"

namespace minke {
namespace {

std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not lock");

constexpr int kExitInterrupted = 130;

// Only what is async-signal-safe: a lock-free atomic, write and _exit.
void on_signal(int /*signal*/) {
  constexpr char kSaving[] = "\nstopping after this step; once more leaves at once\n";
  constexpr char kLeaving[] = "\nleaving at once\n";
  if (g_interrupted.exchange(true)) {
    [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, kLeaving, sizeof kLeaving - 1);
    ::_exit(kExitInterrupted);
  }
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, kSaving, sizeof kSaving - 1);
}

}  // namespace

void catch_interrupts() {
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

}  // namespace minke
