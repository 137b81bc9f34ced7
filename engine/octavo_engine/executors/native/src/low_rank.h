// Low-rank adapters: what each adds to the products of a layer's weights, and the rows of a step that have one.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "linear.h"
#include "memory_map.h"
#include "model.h"
#include "operations/operations.h"

namespace octavo {

// The factors for one weight, as they come from executor.py: y += b · (a · x).
struct LowRankWeight {
  std::string name;  // such as layers.3.q
  int64_t rank = 0;
  int64_t in = 0, out = 0;
  const float* a = nullptr;  // [rank][in]
  const float* b = nullptr;  // [out][rank]
};

// What an adapter adds where some weights read one input and write side by side: their first factors as one matrix.
class LowRankSet {
 public:
  // Adds the factors of a weight whose output begins at `column`.
  void add(const LowRankWeight& weight, int64_t column, bool bf16);
  int64_t rank() const { return rank_; }
  int64_t bytes() const;
  void in(const Operations& ops, const int32_t* rows, int64_t count, const float* x, int64_t ldx, float* out,
          int64_t ldo) const;
  // Columns [begin, end) of the outputs of all of its weights; y is column `begin` of row 0.
  void out(const Operations& ops, const int32_t* rows, int64_t count, int64_t begin, int64_t end, const float* t,
           int64_t ldt, float* y, int64_t ldy) const;

 private:
  struct Part {
    int64_t column, n, rank, first_rank;
    std::vector<uint8_t> b;
  };
  bool bf16_ = false;
  int64_t k_ = 0, lda_ = 0, rank_ = 0;
  std::vector<uint8_t> a_;
  std::vector<Part> parts_;
};

// The inputs of a layer that adapted weights read.
enum class LowRankPlace : int32_t { Qkv = 0, Output = 1, GateUp = 2, Down = 3 };
constexpr size_t kLowRankPlaces = 4;

// One adapter, packed. Columns of gate come before those of up.
class LowRankAdapter {
 public:
  // Throws std::invalid_argument naming a weight that the model lacks, that has another shape, or that can't be
  // adapted.
  LowRankAdapter(const DecoderModel& model, const std::vector<LowRankWeight>& weights, bool bf16);
  const LowRankSet& at(size_t layer, LowRankPlace place) const {
    return layers_[layer * kLowRankPlaces + static_cast<size_t>(place)];
  }
  int64_t widest() const;  // the largest rank of a set
  int64_t bytes() const;

 private:
  std::vector<LowRankSet> layers_;
};

// The adapters of one step's rows, and their numbers between the two factors.
class LowRankStep {
 public:
  // Before any row is added: makes room for `rows` rows with sets of up to `rank`.
  void reserve(int64_t rows, int64_t rank);
  void clear() { groups_.clear(); }
  void add(const LowRankAdapter* adapter, int32_t first_row, int32_t count);
  bool empty() const { return groups_.empty(); }

  // First factors, for rows [begin, end) of x.
  void in(const Operations& ops, size_t layer, LowRankPlace place, const float* x, int64_t ldx, int64_t begin,
          int64_t end);
  // Second factors, for all rows: columns [begin, end) of the place's output; y is column `begin` of row 0.
  void out(const Operations& ops, size_t layer, LowRankPlace place, int64_t begin, int64_t end, float* y,
           int64_t ldy) const;

 private:
  struct Group {
    const LowRankAdapter* adapter;
    std::vector<int32_t> rows;  // ascending
  };
  std::vector<Group> groups_;
  int64_t width_ = 0;
  MemoryMap numbers_;  // [rows][width_]
};

// A layer's place in a step, for what multiplies there.
struct LowRankTerm {
  const LowRankStep& step;
  const Operations& ops;
  size_t layer;
  LowRankPlace place;

  void add(int64_t begin, int64_t end, float* y, int64_t ldy) const { step.out(ops, layer, place, begin, end, y, ldy); }
};

}  // namespace octavo
