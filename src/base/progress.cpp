#include "base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace minke {
namespace {

constexpr auto kTerminalInterval = std::chrono::milliseconds(100);
constexpr auto kPlainInterval = std::chrono::seconds(10);
// Work shorter than this needs no line.
constexpr double kQuietSeconds = 1.0;

bool is_live_terminal() {
  const char* ci = std::getenv("CI");
  const char* term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::string_view(term) == "dumb";
  return ::isatty(STDERR_FILENO) == 1 && ci == nullptr && !dumb;
}

size_t terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

// The first `columns` characters of UTF-8 text, counting one column a character.
std::string_view cut(std::string_view text, size_t columns) {
  size_t at = 0;
  for (; at < text.size(); ++at) {
    const bool starts_character = (static_cast<unsigned char>(text[at]) & 0xC0U) != 0x80U;
    if (starts_character && columns-- == 0) break;
  }
  return text.substr(0, at);
}

// The number in the unit that leaves one to three digits before the point.
struct Scaled {
  double value;
  size_t unit;  // how many thousands were taken out
  int digits;   // after the point, for three in all
};

Scaled scale(double x, size_t units) {
  Scaled s{x, 0, 0};
  // 999.5 would be written as 1000.
  while (std::fabs(s.value) >= 999.5 && s.unit + 1 < units) {
    s.value /= 1000;
    ++s.unit;
  }
  if (s.unit > 0) s.digits = std::fabs(s.value) < 9.995 ? 2 : std::fabs(s.value) < 99.95 ? 1 : 0;
  return s;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m {:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h {:02}m", s / 3600, s % 3600 / 60);
  return fmt::format("{}d {:02}h", s / 86400, s % 86400 / 3600);
}

std::string format_bytes(double bytes) {
  constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB", "PB"};
  const Scaled s = scale(bytes, kUnits.size());
  return fmt::format("{:.{}f} {}", s.value, std::min(s.digits, 1), kUnits[s.unit]);
}

std::string format_count(double count) {
  constexpr std::array kUnits = {"", "K", "M", "B", "T"};
  const Scaled s = scale(count, kUnits.size());
  return fmt::format("{:.{}f}{}", s.value, s.digits, kUnits[s.unit]);
}

LiveLine::LiveLine() : terminal_(is_live_terminal()), next_(Clock::now()) {
  if (!terminal_) next_ += kPlainInterval;
}

LiveLine::~LiveLine() {
  if (drawn_) std::fputc('\n', stderr);
}

bool LiveLine::due() const { return Clock::now() >= next_; }

void LiveLine::show(std::string_view text) {
  if (!due()) return;
  if (terminal_) {
    draw(text);
    drawn_ = true;
    next_ = Clock::now() + kTerminalInterval;
  } else {
    fmt::print(stderr, "{}\n", text);
    next_ = Clock::now() + kPlainInterval;
  }
}

void LiveLine::keep(std::string_view text) {
  clear();
  fmt::print(stderr, "{}\n", text);
}

void LiveLine::clear() {
  if (!drawn_) return;
  draw("");
  drawn_ = false;
}

void LiveLine::draw(std::string_view text) {
  // A line that wraps cannot be drawn over. \r first, then erase what the older text leaves.
  fmt::print(stderr, "\r{}\033[K", cut(text, terminal_columns() - 1));
  std::fflush(stderr);
}

std::string progress_text(std::string_view what, uint64_t done, uint64_t total, Progress::Unit unit,
                          double seconds) {
  const auto amount = [unit](double x) {
    return unit == Progress::Unit::kBytes ? format_bytes(x) : format_count(x);
  };
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  if (done >= total) {
    return fmt::format("{}: {} in {}, {}/s", what, amount(static_cast<double>(done)),
                       format_duration(seconds), amount(rate));
  }
  const double fraction = static_cast<double>(done) / static_cast<double>(total);
  const double left = done > 0 ? static_cast<double>(total - done) / rate : NAN;
  return fmt::format("{}: {:.0f}% of {}, {}/s, {} left", what, std::floor(100 * fraction),
                     amount(static_cast<double>(total)), amount(rate), format_duration(left));
}

Progress::Progress(std::string what, uint64_t total, Unit unit)
    : what_(std::move(what)), total_(total), unit_(unit), start_(Clock::now()) {}

Progress::~Progress() {
  // Work that an exception ended must not look done.
  if (done_ >= total_ && seconds() >= kQuietSeconds) {
    line_.keep(progress_text(what_, done_, total_, unit_, seconds()));
  }
}

double Progress::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void Progress::add(uint64_t amount) {
  const uint64_t done = done_.fetch_add(amount, std::memory_order_relaxed) + amount;
  if (seconds() < kQuietSeconds || !drawing_.try_lock()) return;
  const std::lock_guard lock(drawing_, std::adopt_lock);
  if (line_.due()) line_.show(progress_text(what_, done, total_, unit_, seconds()));
}

}  // namespace minke
