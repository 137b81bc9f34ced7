// The threads of one executor, and the phases that they run through together.
//
// A step is a program of phases that every thread runs alike; the work of a phase is handed out in chunks, and the
// phase ends when its work is done, not when every thread has come: the cores are shared with the API server, and a
// thread that lost its core must not hold up the others unless it holds a chunk. A thread that comes late skips the
// phases that have ended. Threads are our own because libgomp's workers spin for milliseconds after a region on
// cores that the server needs, and offer no way to change that from inside a process.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace octavo {

// Flushes denormals while in scope: they are slow, and nothing here needs them.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
};

class Team;

// One thread's place in the running program.
struct Member {
  Team* team;
  int id;
  uint32_t phase = 0;
};

class Team {
 public:
  // `threads` of them, the caller of `run` included. Throws std::runtime_error where the system cannot start so many.
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return threads_; }

  // Runs `program` in all threads, denormals flushed; returns when all of its phases have ended. The first exception
  // that the program or a phase's work throws, on any thread, ends the program early and is thrown here; the team can
  // be used again afterwards.
  void run(const std::function<void(Member&)>& program);

  // One phase: `work(begin, end)` over [0, total), in chunks of at least `grain`. All threads call it with the same
  // numbers; everything written in it is visible to all when it returns.
  template <class Work>
  void each(Member& me, int64_t total, int64_t grain, Work&& work) {
    if (total <= 0) return;
    if (threads_ == 1) {
      work(int64_t{0}, total);
      return;
    }
    const uint32_t phase = me.phase++;
    int64_t mine = 0;
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(ticket >> 32) == phase) {
      const int64_t next = static_cast<uint32_t>(ticket);
      if (next >= total) break;
      int64_t take = (total - next) / (2 * threads_);
      if (take < grain) take = grain;
      const int64_t end = next + take < total ? next + take : total;
      const uint64_t taken = (static_cast<uint64_t>(phase) << 32) | static_cast<uint64_t>(end);
      if (!ticket_.compare_exchange_weak(ticket, taken, std::memory_order_acq_rel, std::memory_order_acquire)) {
        continue;
      }
      // After a failure chunks are only counted, so that the phases end and every thread comes to the program's end.
      if (!failed_.load(std::memory_order_acquire)) {
        try {
          work(next, end);
        } catch (...) {
          fail(std::current_exception());
        }
      }
      mine += end - next;
      ticket = ticket_.load(std::memory_order_acquire);
    }
    if (mine > 0 && done_.fetch_add(mine, std::memory_order_acq_rel) + mine == total) {
      done_.store(0, std::memory_order_relaxed);
      ticket_.store(static_cast<uint64_t>(phase + 1) << 32, std::memory_order_release);
      return;
    }
    wait_past(phase);
  }

 private:
  void wait_past(uint32_t phase);
  void work(int id);
  bool join();
  void stop();
  void fail(std::exception_ptr error);
  void run_program(Member& me);

  int threads_;
  std::vector<std::thread> workers_;
  const std::function<void(Member&)>* program_ = nullptr;
  alignas(64) std::atomic<uint64_t> ticket_{0};  // phase << 32 | next piece of work
  alignas(64) std::atomic<int64_t> done_{0};     // pieces of this phase that have ended
  alignas(64) std::atomic<uint32_t> run_{0};     // odd while a program runs
  alignas(64) std::atomic<int> inside_{0};       // workers inside the program
  std::atomic<int> asleep_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // the first; under mutex_
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace octavo
