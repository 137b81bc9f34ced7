// Which experts a step's rows go to, and in what order the experts compute them. Independent of weights.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "model.h"

namespace octavo {

struct Choice {
  int32_t expert;
  float weight;
};

// The router.num_chosen experts of one row, ascending, from its logits [num_experts]. `correction`, as long, or null.
// NaN among the logits makes the weights NaN.
void choose(const RouterModel& router, const float* logits, const float* correction, Choice* out);

// One row that goes to one expert. Its results are kept in `slot` of its wave.
struct RoutedPair {
  int32_t row;
  int32_t slot;
  float weight;
};

// Rows of one expert that are computed together, in slots from `slot` on.
struct ExpertPiece {
  int32_t expert;
  int32_t slot;
  int32_t count;
};

// What is computed before the buffers' slots are used again. The counts may be read by a thread that comes late, while
// another layer's routes are made: what it does not find in its phase it does not do (parallel.h).
struct Wave {
  std::atomic<int32_t> first_pair{0}, num_pairs{0}, first_piece{0}, num_pieces{0};
};

class Routes {
 public:
  // For at most `max_rows` rows of routers that choose at most `max_chosen`; a piece begins at a multiple of `align`.
  Routes(int64_t max_rows, int64_t max_chosen, int64_t align, int64_t slots);
  // Slots that as many rows can need, all of them in one wave.
  static int64_t most_slots(const RouterModel& router, int64_t rows, int64_t align);

  // The choices of each row, [rows][num_chosen], to be filled before `build`.
  Choice* choices() { return choices_.data(); }
  // Every wave but the last is full, so that their number follows from that of rows.
  int64_t num_waves(const RouterModel& router, int64_t rows) const;
  // Orders the pairs by expert, then row. Its waves are the first num_waves(), the last of which may be empty.
  void build(const RouterModel& router, int64_t rows);

  int64_t slots() const { return slots_; }
  const Wave& wave(int64_t i) const { return waves_[static_cast<size_t>(i)]; }
  const RoutedPair& pair(int64_t i) const { return pairs_[static_cast<size_t>(i)]; }
  // Of a wave the pieces with most rows come last: work is handed out in ever smaller shares.
  const ExpertPiece& piece(int64_t i) const { return pieces_[static_cast<size_t>(i)]; }
  // Of the `k`-th choice of `row`, its pair.
  int64_t pair_of(const RouterModel& router, int64_t row, int64_t k) const {
    return pair_of_[static_cast<size_t>(row * router.num_chosen + k)];
  }

 private:
  int64_t align_, slots_;
  std::vector<Choice> choices_;
  std::vector<RoutedPair> pairs_;
  std::vector<int32_t> pair_of_;
  std::vector<ExpertPiece> pieces_;
  std::vector<Wave> waves_;
  std::vector<int64_t> firsts_;  // of each expert, its next pair
};

}  // namespace octavo
