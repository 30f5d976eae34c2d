#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"

namespace minke {
namespace {

thread_local int t_index = 0;
thread_local bool t_inside = false;

struct Job {
  FunctionRef<void(int64_t, int64_t)> body;
  int64_t n = 0, grain = 1;
  std::atomic<int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;

  Job(FunctionRef<void(int64_t, int64_t)> b, int64_t size, int64_t step)
      : body(b), n(size), grain(step) {}

  void run() {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= n) return;
      try {
        body(begin, std::min(n, begin + grain));
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next.store(n, std::memory_order_relaxed);
      }
    }
  }
};

class Pool {
 public:
  explicit Pool(int threads) {
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
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.run();
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
      job->run();
      lock.lock();
      active_.fetch_sub(1, std::memory_order_release);
      lock.unlock();
      done_.notify_one();
    }
  }

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
  if (n <= 0) return;
  Job job(body, n, grain);
  PoolHolder& h = holder();
  if (n <= grain || h.threads == 1 || t_inside || !h.owner.try_lock()) {
    job.run();
  } else {
    const std::lock_guard lock(h.owner, std::adopt_lock);
    if (!h.pool) h.pool.emplace(h.threads);
    t_inside = true;
    h.pool->run(job);
    t_inside = false;
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace minke
