#include "parallel.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {
namespace {

// How long a worker spins for the next program before it sleeps: about the gap between two steps of a busy engine.
constexpr auto kSpinBeforeSleep = std::chrono::microseconds(60);
// Pauses in a phase before the core is offered to others: some 20 µs.
constexpr int kPausesBeforeYield = 1000;

// One pause of a spinning thread.
void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void pause(int& pauses) {
  if (pauses++ < kPausesBeforeYield) {
    relax();
  } else {
    std::this_thread::yield();
  }
}

}  // namespace

#if defined(__x86_64__)
FlushDenormals::FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
FlushDenormals::~FlushDenormals() { _mm_setcsr(before_); }
#else
FlushDenormals::FlushDenormals() : before_(0) {}
FlushDenormals::~FlushDenormals() = default;
#endif

Team::Team(int threads) : threads_(std::max(1, threads)) {
  try {
    for (int id = 1; id < threads_; ++id) {
      workers_.emplace_back([this, id] { work(id); });
    }
  } catch (const std::system_error& error) {
    const auto started = workers_.size() + 1;
    stop();
    throw std::runtime_error("only " + std::to_string(started) + " of " + std::to_string(threads_) +
                             " threads could be started (" + error.code().message() +
                             "): a limit on processes or memory is reached; raise it, or set --threads to fewer");
  }
}

Team::~Team() { stop(); }

void Team::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
}

void Team::run(const std::function<void(Member&)>& program) {
  FlushDenormals flushed;
  Member me{this, 0};
  if (threads_ == 1) {
    program(me);
    return;
  }
  program_ = &program;
  ticket_.store(0, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  run_.fetch_add(1, std::memory_order_seq_cst);  // odd: open
  if (asleep_.load(std::memory_order_seq_cst) > 0) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }
  run_program(me);
  run_.fetch_add(1, std::memory_order_seq_cst);  // even: closed, no thread enters any more
  for (int pauses = 0; inside_.load(std::memory_order_seq_cst) > 0;) pause(pauses);
  program_ = nullptr;
  if (failed_.exchange(false)) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

// A thread that leaves the program early holds up no other: each walks through all phases, alone if it must.
void Team::run_program(Member& me) {
  try {
    (*program_)(me);
  } catch (...) {
    fail(std::current_exception());
  }
}

void Team::fail(std::exception_ptr error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!error_) error_ = std::move(error);
  failed_.store(true, std::memory_order_release);
}

bool Team::join() {
  inside_.fetch_add(1, std::memory_order_seq_cst);
  if (run_.load(std::memory_order_seq_cst) & 1U) return true;
  inside_.fetch_sub(1, std::memory_order_seq_cst);
  return false;
}

void Team::work(int id) {
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
    run_program(me);
    inside_.fetch_sub(1, std::memory_order_seq_cst);
  }
}

void Team::wait_past(uint32_t phase) {
  for (int pauses = 0; static_cast<uint32_t>(ticket_.load(std::memory_order_acquire) >> 32) == phase;) pause(pauses);
}

}  // namespace octavo
