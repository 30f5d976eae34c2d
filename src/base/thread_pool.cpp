#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/error.h"

namespace minke {
namespace {

thread_local int t_index = 0;
thread_local bool t_inside = false;

// Chunks [begin, end) that are one thread's, which takes them from the front; others that have none
// left take them from the back.
struct alignas(64) Range {
  std::atomic<uint64_t> ends{0};  // begin in the upper half

  static uint64_t of(uint64_t begin, uint64_t end) { return begin << 32 | end; }
  static int64_t size(uint64_t ends) {
    return static_cast<int64_t>(ends & UINT32_MAX) - static_cast<int64_t>(ends >> 32);
  }
  struct Taken {
    int64_t begin = 0, count = 0;
  };
  // One chunk, or of `runs` a share of what is left; none is left: 0.
  Taken take(bool front, bool runs) {
    constexpr int64_t kShare = 4;
    uint64_t now = ends.load(std::memory_order_relaxed);
    while (size(now) > 0) {
      const auto count = static_cast<uint64_t>(runs ? (size(now) + kShare - 1) / kShare : 1);
      const uint64_t rest = front ? now + (count << 32) : now - count;
      if (ends.compare_exchange_weak(now, rest, std::memory_order_relaxed)) {
        return {static_cast<int64_t>(front ? now >> 32 : rest & UINT32_MAX),
                static_cast<int64_t>(count)};
      }
    }
    return {};
  }
};

struct Job {
  FunctionRef<void(int64_t, int64_t)> body;
  int64_t n = 0, grain = 1;
  bool runs = false;  // of chunks
  std::span<Range> ranges;
  std::mutex error_mutex;
  std::exception_ptr error;

  Job(FunctionRef<void(int64_t, int64_t)> b, int64_t size, int64_t step, bool in_runs)
      : body(b), n(size), grain(step), runs(in_runs) {}

  void share(std::span<Range> among) {
    const auto chunks = static_cast<uint64_t>((n + grain - 1) / grain);
    MINKE_CHECK(chunks <= UINT32_MAX, "{} chunks", chunks);
    ranges = among;
    for (size_t i = 0; i < ranges.size(); ++i) {
      ranges[i].ends = Range::of(chunks * i / ranges.size(), chunks * (i + 1) / ranges.size());
    }
  }

  void run_alone() {
    if (runs) return body_of(0, n);
    for (int64_t at = 0; at < n && !error; at += grain) body_of(at, std::min(n, at + grain));
  }

  void run(int thread) {
    Range& mine = ranges[static_cast<size_t>(thread)];
    for (;;) {
      Range::Taken taken = mine.take(true, runs);
      for (size_t i = 1; taken.count == 0 && i < ranges.size(); ++i) {
        taken = ranges[(static_cast<size_t>(thread) + i) % ranges.size()].take(false, runs);
      }
      if (taken.count == 0) return;
      body_of(taken.begin * grain, std::min(n, (taken.begin + taken.count) * grain));
    }
  }

 private:
  void body_of(int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      for (Range& r : ranges) r.ends = 0;
    }
  }
};

class Pool {
 public:
  explicit Pool(int threads) : ranges_(static_cast<size_t>(threads)) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& w : workers_) w.join();
  }
  int size() const { return static_cast<int>(workers_.size()) + 1; }

  void run(Job& job) {
    job.share(ranges_);
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.run(0);
    // A worker that has not woken by now finds no job and is not waited for.
    std::unique_lock lock(mutex_);
    job_ = nullptr;
    lock.unlock();
    for (int spin = 0; spin < kSpins && active_.load(std::memory_order_acquire) > 0; ++spin) {
      __builtin_ia32_pause();
    }
    lock.lock();
    done_.wait(lock, [this] { return active_ == 0; });
  }

 private:
  // Ops follow each other within microseconds: look for the next job a while before sleeping.
  static constexpr int kSpins = 4000;

  void work(int index) {
    t_index = index;
    t_inside = true;
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen;
           ++spin) {
        __builtin_ia32_pause();
      }
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
      Job* job = job_;
      if (job == nullptr) continue;
      active_.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      job->run(index);
      lock.lock();
      active_.fetch_sub(1, std::memory_order_release);
      lock.unlock();
      done_.notify_one();
    }
  }

  std::vector<Range> ranges_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  std::atomic<int> active_{0};
  std::atomic<uint64_t> generation_{0};
  bool stop_ = false;
};

int default_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1U, std::thread::hardware_concurrency());
}

struct PoolHolder {
  std::mutex owner;  // one parallel_for at a time; a second caller runs alone in its own thread
  std::optional<Pool> pool;
  int threads = default_threads();
};

PoolHolder& holder() {
  static PoolHolder instance;
  return instance;
}

void share_out(Job& job) {
  if (job.n <= 0) return;
  PoolHolder& h = holder();
  if (job.n <= job.grain || h.threads == 1 || t_inside || !h.owner.try_lock()) {
    job.run_alone();
  } else {
    const std::lock_guard lock(h.owner, std::adopt_lock);
    if (!h.pool) h.pool.emplace(h.threads);
    t_inside = true;
    h.pool->run(job);
    t_inside = false;
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace

int thread_count() { return holder().threads; }

void set_thread_count(int threads) {
  MINKE_CHECK(threads >= 1 && threads <= 1024, "{} threads", threads);
  PoolHolder& h = holder();
  const std::lock_guard lock(h.owner);
  if (threads == h.threads) return;
  h.pool.reset();
  h.threads = threads;
}

int thread_index() { return t_index; }

void parallel_for(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) {
  MINKE_DCHECK(grain > 0);
  Job job(body, n, grain, false);
  share_out(job);
}

void parallel_for_runs(int64_t n, FunctionRef<void(int64_t, int64_t)> body) {
  Job job(body, n, 1, true);
  share_out(job);
}

}  // namespace minke
