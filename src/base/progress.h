// How far long work has come, on standard error, and numbers as people read them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

namespace minke {

std::string format_duration(double seconds);  // 0.8s, 12s, 3m 20s, 2h 05m, 3d 04h
std::string format_bytes(double bytes);       // 512 B, 1.2 GB: powers of 1000
std::string format_count(double count);       // 987, 12.3K, 4.10M, 671B: three digits

// One line that is always the newest. On a terminal it is drawn over itself, at most ten times a
// second; elsewhere (a file, a pipe, CI) it becomes a plain line every ten seconds.
class LiveLine {
 public:
  LiveLine();
  ~LiveLine();  // leaves the last text standing
  LiveLine(const LiveLine&) = delete;
  LiveLine& operator=(const LiveLine&) = delete;

  // True when show() would draw now: building the text may cost more than asking.
  bool due() const;
  // Shows the text if it is due.
  void show(std::string_view text);
  // Shows the text whether due or not, and keeps it: what follows starts on a line of its own.
  void keep(std::string_view text);
  // Wipes the line off a terminal, so that something else can be printed.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(std::string_view text);

  bool terminal_;
  bool drawn_ = false;
  Clock::time_point next_;
};

// Fraction, rate and time left of work whose size is known: one line while it lasts and one when
// it is done. Work that ends within a second prints nothing.
class Progress {
 public:
  enum class Unit { kCount, kBytes };

  Progress(std::string what, uint64_t total, Unit unit = Unit::kCount);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // That much more is done. Any thread may call it.
  void add(uint64_t amount);

 private:
  using Clock = std::chrono::steady_clock;
  double seconds() const;

  const std::string what_;
  const uint64_t total_;
  const Unit unit_;
  const Clock::time_point start_;
  std::atomic<uint64_t> done_{0};
  std::mutex drawing_;
  LiveLine line_;
};

// The text that Progress shows: "reading: 40% of 1.2 GB, 12.3 MB/s, 58s left".
std::string progress_text(std::string_view what, uint64_t done, uint64_t total, Progress::Unit unit,
                          double seconds);

}  // namespace minke
