#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace minke {
namespace {

using Chunks = std::set<std::pair<int64_t, int64_t>>;

// Restores the number of threads.
class ThreadPool : public testing::Test {
 protected:
  ~ThreadPool() override { set_thread_count(before_); }

  static Chunks chunks_of(int64_t n, int64_t grain) {
    std::mutex mutex;
    Chunks chunks;
    parallel_for(n, grain, [&](int64_t begin, int64_t end) {
      const std::lock_guard lock(mutex);
      EXPECT_TRUE(chunks.emplace(begin, end).second) << "twice: " << begin;
    });
    return chunks;
  }

 private:
  const int before_ = thread_count();
};

TEST_F(ThreadPool, ChunksDependOnSizesAloneAndCoverTheRangeOnce) {
  for (const int64_t n : {1, 2, 7, 64, 1000}) {
    for (const int64_t grain : {1, 3, 64, 999, 5000}) {
      Chunks expected;
      for (int64_t begin = 0; begin < n; begin += grain) {
        expected.emplace(begin, std::min(n, begin + grain));
      }
      for (const int threads : {1, 2, 3, 8}) {
        set_thread_count(threads);
        EXPECT_EQ(chunks_of(n, grain), expected) << n << " by " << grain << ", " << threads;
      }
    }
  }
}

TEST_F(ThreadPool, RunsAreLongAndCoverTheRangeOnce) {
  for (const int64_t n : {1, 2, 7, 64, 1000}) {
    for (const int threads : {1, 2, 3, 8}) {
      set_thread_count(threads);
      std::mutex mutex;
      Chunks runs;
      parallel_for_runs(n, [&](int64_t begin, int64_t end) {
        const std::lock_guard lock(mutex);
        runs.emplace(begin, end);
      });
      int64_t at = 0, longest = 0;
      for (const auto& [begin, end] : runs) {
        EXPECT_EQ(begin, at);
        EXPECT_LT(begin, end);
        longest = std::max(longest, end - begin);
        at = end;
      }
      EXPECT_EQ(at, n);
      EXPECT_GE(longest, threads == 1 ? n : n / threads / 4);
    }
  }
}

TEST_F(ThreadPool, OneThatIsHeldUpHasItsOtherChunksTakenByOthers) {
  constexpr int64_t kChunks = 64;
  for (const int threads : {2, 3, 8}) {
    set_thread_count(threads);
    std::atomic<int64_t> done = 0;
    parallel_for(kChunks, 1, [&](int64_t begin, int64_t) {
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (begin == 0 && done < kChunks - 1 && std::chrono::steady_clock::now() < give_up) {
        std::this_thread::yield();
      }
      EXPECT_TRUE(begin != 0 || done == kChunks - 1) << threads;
      ++done;
    });
  }
}

TEST_F(ThreadPool, NothingToDoCallsNothing) {
  parallel_for(0, 1, [](int64_t, int64_t) { FAIL(); });
  parallel_for(-5, 1, [](int64_t, int64_t) { FAIL(); });
}

TEST_F(ThreadPool, ResultsAreTheSameBytesForAnyNumberOfThreads) {
  const auto sums = [] {
    std::vector<float> partial(101);
    parallel_for(101, 1, [&](int64_t begin, int64_t) {
      float sum = 0;
      for (int i = 0; i < 1000; ++i) sum += 1.0F / static_cast<float>(1 + begin * 1000 + i);
      partial[static_cast<size_t>(begin)] = sum;
    });
    return partial;
  };
  set_thread_count(1);
  const std::vector<float> alone = sums();
  for (const int threads : {2, 5}) {
    set_thread_count(threads);
    EXPECT_EQ(sums(), alone);
  }
}

TEST_F(ThreadPool, ManyJobsOneAfterTheOther) {
  set_thread_count(3);
  std::atomic<int64_t> sum{0};
  for (int job = 0; job < 2000; ++job) {
    parallel_for(5, 1, [&](int64_t begin, int64_t) { sum += begin; });
  }
  EXPECT_EQ(sum, 2000 * (0 + 1 + 2 + 3 + 4));
}

TEST_F(ThreadPool, TheFirstExceptionComesBackAfterAllStartedChunksEnd) {
  for (const int threads : {1, 2, 4}) {
    set_thread_count(threads);
    std::atomic<int> started{0}, ended{0};
    const auto work = [&](int64_t begin, int64_t) {
      ++started;
      if (begin == 10) {
        ++ended;
        throw std::runtime_error("chunk 10");
      }
      std::this_thread::yield();
      ++ended;
    };
    try {
      parallel_for(1000, 1, work);
      ADD_FAILURE() << "no exception";
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), "chunk 10");
      EXPECT_EQ(started, ended);
      EXPECT_LT(started, 1000);
    }
    EXPECT_EQ(chunks_of(100, 1).size(), 100U) << "the pool works on";
  }
}

TEST_F(ThreadPool, ANestedCallRunsInTheCallingThread) {
  set_thread_count(4);
  std::atomic<int64_t> inner{0};
  parallel_for(50, 1, [&](int64_t, int64_t) {
    const auto here = std::this_thread::get_id();
    parallel_for(20, 3, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(std::this_thread::get_id(), here);
      inner += end - begin;
    });
  });
  EXPECT_EQ(inner, 50 * 20);
}

TEST_F(ThreadPool, NestedExceptionsReachTheTop) {
  set_thread_count(2);
  const auto work = [](int64_t, int64_t) {
    parallel_for(4, 1, [](int64_t begin, int64_t) {
      if (begin == 3) throw std::runtime_error("inside");
    });
  };
  EXPECT_THROW(parallel_for(8, 1, work), std::runtime_error);
}

TEST_F(ThreadPool, IndicesAreOfThisPoolAndNoTwoThreadsShareOne) {
  constexpr int kThreads = 3;
  set_thread_count(kThreads);
  std::vector<std::atomic<int>> inside(kThreads);
  parallel_for(3000, 1, [&](int64_t, int64_t) {
    const int index = thread_index();
    ASSERT_GE(index, 0);
    ASSERT_LT(index, kThreads);
    EXPECT_EQ(inside[static_cast<size_t>(index)].fetch_add(1), 0);
    inside[static_cast<size_t>(index)].fetch_sub(1);
  });
  EXPECT_EQ(thread_index(), 0);
}

TEST_F(ThreadPool, TwoCallersAtOnceBothGetTheirWork) {
  set_thread_count(2);
  std::atomic<int64_t> sum{0};
  const auto caller = [&] {
    for (int job = 0; job < 200; ++job) {
      parallel_for(10, 1, [&](int64_t begin, int64_t) { sum += begin; });
    }
  };
  std::thread other(caller);
  caller();
  other.join();
  EXPECT_EQ(sum, 2 * 200 * 45);
}

}  // namespace
}  // namespace minke
