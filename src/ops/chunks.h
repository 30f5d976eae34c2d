// Work of several items, each cut into its own number of chunks, shared out over the threads
// together. Chunks depend on sizes alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/thread_pool.h"

namespace minke::ops {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

class Chunks {
 public:
  // The next item's.
  void add(int64_t chunks) { ends_.push_back(total() + chunks); }
  // Calls body(item, chunk of that item).
  template <typename Body>
  void run(Body&& body) const {
    parallel_for(total(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto item = std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin();
        body(static_cast<size_t>(item), i - (item == 0 ? 0 : ends_[static_cast<size_t>(item) - 1]));
      }
    });
  }

 private:
  int64_t total() const { return ends_.empty() ? 0 : ends_.back(); }
  std::vector<int64_t> ends_;
};

}  // namespace minke::ops
