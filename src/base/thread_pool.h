// One pool of threads for the whole program; work is cut into chunks, of which each thread has a
// run of neighbours and then takes of the others' (a neighbour on one core slows a static schedule
// to that core's pace; chunks in turns would make every run of memory a short one).
//
// Chunk boundaries depend on the sizes alone, never on the number of threads, so whatever a chunk
// computes is the same bytes for any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace minke {

// A reference to a callable; the callable outlives the call it is passed to.
template <typename Signature>
class FunctionRef;
template <typename R, typename... Args>
class FunctionRef<R(Args...)> {
 public:
  template <typename F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>)
  FunctionRef(F&& f)  // NOLINT(google-explicit-constructor,bugprone-forwarding-reference-overload)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

// Number of threads that parallel_for uses, the caller's included. Defaults to the cores this
// process may run on. Not to be changed while a parallel_for runs.
int thread_count();
void set_thread_count(int threads);

// Calls body(begin, end) for [0, n) cut into chunks of `grain` (the last may be shorter), on all
// threads, and returns when all are done. A nested call runs in the calling thread. The first
// exception thrown by a chunk is rethrown here, after all started chunks end.
void parallel_for(int64_t n, int64_t grain, FunctionRef<void(int64_t begin, int64_t end)> body);

// Calls body(begin, end) for runs of neighbours, long ones first, that make up [0, n). Where they
// begin differs from call to call: for what goes on best where its neighbour ended, and whose
// results do not depend on that.
void parallel_for_runs(int64_t n, FunctionRef<void(int64_t begin, int64_t end)> body);

// The index of the calling thread in [0, thread_count()): for scratch space, never for results.
int thread_index();

}  // namespace minke
