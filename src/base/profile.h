// Where the time goes: what each named piece of work takes, with and without the pieces inside it.
// Off until it is asked for; then a piece costs two readings of the clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace minke {

struct ProfileEntry {
  std::string name;
  double seconds = 0;  // its own, without pieces inside
  double whole = 0;    // with them; a piece may not lie within one of its own name
  int64_t calls = 0;
};

// Starts counting from zero, or stops.
void start_profile();
// Ends it and returns the entries, the longest first.
std::vector<ProfileEntry> finish_profile();

// A piece of work, from here to the end of the scope. Of the thread that started the profile alone:
// what the pool's threads do within it is its time. `name` is a literal.
class Profiled {
 public:
  explicit Profiled(const char* name);
  ~Profiled();
  Profiled(const Profiled&) = delete;
  Profiled& operator=(const Profiled&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  const char* name_;  // null while nobody asks
  Profiled* outer_ = nullptr;
  Clock::time_point start_;
  double inside_ = 0;  // seconds of the pieces inside
};

}  // namespace minke
