// Wall-clock seconds of steps by phase, measured on the calling thread; off until enabled.
#pragma once
#include <array>
#include <chrono>
#include <cstdint>

namespace octavo {

enum class Phase : int {
  Plan,
  Embed,
  Norm,
  Qkv,
  KvWrite,
  Attention,
  Output,
  Router,
  GateUp,
  Activation,
  Down,
  Head,
  Sample,
  Count
};

constexpr std::array<const char*, static_cast<size_t>(Phase::Count)> kPhaseNames = {
    "plan",   "embed",   "norm",       "qkv",  "kv_write", "attention", "output",
    "router", "gate_up", "activation", "down", "head",     "sample"};

class StepTimer {
 public:
  void enable(bool on) {
    on_ = on;
    spent_.fill(0.0);
  }
  void start() {
    if (on_) last_ = Clock::now();
  }
  void mark(Phase what) {
    if (!on_) return;
    const auto now = Clock::now();
    spent_[static_cast<size_t>(what)] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }
  // Seconds of each phase since enable().
  const std::array<double, static_cast<size_t>(Phase::Count)>& spent() const { return spent_; }

 private:
  using Clock = std::chrono::steady_clock;
  bool on_ = false;
  Clock::time_point last_{};
  std::array<double, static_cast<size_t>(Phase::Count)> spent_{};
};

}  // namespace octavo
