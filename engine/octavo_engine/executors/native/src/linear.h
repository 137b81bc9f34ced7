// Matrices that read the same activations and write side by side into one row: q, k and v; gate and up; or one alone.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "matmul.h"
#include "stored_weights.h"

namespace octavo {

// Prepared activations of each kind and width that some matrix needs, shared by all layers.
class ActivationPool {
 public:
  ActivationPool(int64_t max_rows, Isa isa) : max_rows_(max_rows), isa_(isa) {}
  Activations& get(ActivationKind kind, int64_t k);
  Isa isa() const { return isa_; }

 private:
  int64_t max_rows_;
  Isa isa_;
  std::map<std::pair<int32_t, int64_t>, std::unique_ptr<Activations>> pool_;
};

// How weights are packed, and the activations that their matrices share.
struct Packing {
  int32_t widen;  // a Format that every matrix is turned into; -1: as stored
  ActivationPool& pool;
  Team& team;
};

class Linear {
 public:
  Linear() = default;
  // Packs `weights`, which share their columns, as few matrices as their formats allow.
  Linear(const std::vector<StoredWeight>& weights, const Packing& packing);
  // Packs gate and up with their blocks in turn, so that one thread has both halves of an output at hand; where
  // formats or sizes don't allow it, gate comes whole before up.
  static Linear gate_up(const StoredWeight& gate, const StoredWeight& up, const Packing& packing);

  bool empty() const { return parts_.empty(); }
  // Blocks of gate that are followed by as many of up; 0: not interleaved.
  int64_t interleaved() const { return interleaved_; }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  int64_t blocks() const { return blocks_; }
  // The first output column of `block`; n() for blocks().
  int64_t column(int64_t block) const;
  int64_t bytes() const;
  const Matrix& first() const { return *parts_.front().matrix; }

  // Prepare rows [begin, end) of x for every part.
  void prepare(const float* x, int64_t ldx, int64_t begin, int64_t end) const;
  // Prepare one row, to be row `row` of what is multiplied.
  void prepare_row(const float* x, int64_t row) const;
  // Output blocks [begin, end) of `rows` into y, whose first row is that of rows.begin.
  void multiply(RowRange rows, int64_t begin, int64_t end, float* y, int64_t ldy) const;

 private:
  struct Part {
    std::unique_ptr<Matrix> matrix;
    int64_t column;
    int64_t first_block;
    Activations* input;
  };
  void add(std::unique_ptr<Matrix> matrix, ActivationPool& pool);

  std::vector<Part> parts_;
  std::vector<Activations*> inputs_;  // distinct
  int64_t n_ = 0, k_ = 0, blocks_ = 0;
  int64_t interleaved_ = 0;
};

}  // namespace octavo
