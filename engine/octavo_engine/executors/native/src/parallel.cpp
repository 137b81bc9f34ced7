#include "parallel.h"

#include <algorithm>
#include <chrono>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {
namespace {

// How long a worker spins for the next program before it sleeps: about the gap between two steps of a busy engine.
constexpr auto kSpinBeforeSleep = std::chrono::microseconds(60);
// Pauses in a phase before the core is offered to others: some 20 µs.
constexpr int kPausesBeforeYield = 1000;

#if defined(__linux__)
bool bind(int core, cpu_set_t* before) {
  if (before != nullptr && sched_getaffinity(0, sizeof *before, before) != 0) return false;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  return sched_setaffinity(0, sizeof one, &one) == 0;
}
#endif

// Flush denormals while in scope: they are slow, and nothing here needs them.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
  FlushDenormals() {}
#endif
};

}  // namespace

std::vector<int> available_cores() {
  std::vector<int> cores;
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(i, &mask)) cores.push_back(i);
    }
  }
#endif
  if (cores.empty()) {
    const unsigned count = std::max(1U, std::thread::hardware_concurrency());
    for (unsigned i = 0; i < count; ++i) cores.push_back(static_cast<int>(i));
  }
  return cores;
}

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

Team::Team(int threads) : threads_(threads < 1 ? 1 : threads), cores_(available_cores()) {
  for (int id = 1; id < threads_; ++id) {
    const int core = static_cast<size_t>(threads_) <= cores_.size() ? cores_[static_cast<size_t>(id)] : -1;
    workers_.emplace_back([this, id, core] { work(id, core); });
  }
}

Team::~Team() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Team::run(const std::function<void(Member&)>& program) {
  FlushDenormals flushed;
  Member me{this, 0};
  if (threads_ == 1) {
    program(me);
    return;
  }
#if defined(__linux__)
  cpu_set_t before;
  const bool bound = static_cast<size_t>(threads_) <= cores_.size() && bind(cores_[0], &before);
#endif
  program_ = &program;
  ticket_.store(0, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  run_.fetch_add(1, std::memory_order_seq_cst);  // odd: open
  if (asleep_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  program(me);
  run_.fetch_add(1, std::memory_order_seq_cst);  // even: closed, nobody enters any more
  for (int pauses = 0; inside_.load(std::memory_order_seq_cst) > 0; ++pauses) {
    relax();
    if (pauses > kPausesBeforeYield) std::this_thread::yield();
  }
  program_ = nullptr;
#if defined(__linux__)
  if (bound) sched_setaffinity(0, sizeof before, &before);
#endif
}

bool Team::join() {
  inside_.fetch_add(1, std::memory_order_seq_cst);
  if (run_.load(std::memory_order_seq_cst) & 1U) return true;
  inside_.fetch_sub(1, std::memory_order_seq_cst);
  return false;
}

void Team::work(int id, int core) {
#if defined(__linux__)
  if (core >= 0) bind(core, nullptr);
#endif
  (void)core;
  FlushDenormals flushed;
  uint32_t seen = 0;  // the last run that this thread took part in
  while (!stop_.load(std::memory_order_relaxed)) {
    uint32_t run = run_.load(std::memory_order_acquire);
    const auto since = std::chrono::steady_clock::now();
    while (!(run & 1U) || run == seen) {
      for (int i = 0; i < 64; ++i) relax();
      run = run_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      if (std::chrono::steady_clock::now() - since > kSpinBeforeSleep) {
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] {
          run = run_.load(std::memory_order_seq_cst);
          return stop_.load() || ((run & 1U) && run != seen);
        });
        asleep_.fetch_sub(1, std::memory_order_seq_cst);
        if (stop_.load()) return;
      }
    }
    if (!join()) continue;
    seen = run_.load(std::memory_order_acquire);
    Member me{this, id};
    (*program_)(me);
    inside_.fetch_sub(1, std::memory_order_seq_cst);
  }
}

void Team::wait_past(uint32_t phase) {
  for (int pauses = 0; static_cast<uint32_t>(ticket_.load(std::memory_order_acquire) >> 32) == phase; ++pauses) {
    if (pauses < kPausesBeforeYield) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace octavo
