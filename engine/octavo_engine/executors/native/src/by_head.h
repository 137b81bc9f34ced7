// A weight of which each head has a matrix of its own, for rows of its own: what latent attention takes keys in with.
#pragma once
#include <cstdint>
#include <vector>

#include "linear.h"
#include "model.h"

namespace octavo {

// Rows that all heads multiply at once: `count` a head, which lie `stride` apart from head to head where they are
// prepared.
struct HeadSlice {
  int64_t first;  // row of the step
  int64_t count;
  int64_t stride;
};

class ByHead {
 public:
  ByHead() = default;
  ByHead(const StoredWeight& all, int64_t heads, const Packing& packing);

  // Prepared rows for which there is room in steps of `max_rows`; at least one slice's.
  static int64_t slots(const std::vector<LayerModel>& layers, int64_t max_rows, Isa isa);
  // The slice of a step's `rows` that begins at row `first`, as many as `slots` hold.
  HeadSlice slice(int64_t first, int64_t rows, int64_t slots, Isa isa) const;

  int64_t heads() const { return static_cast<int64_t>(matrices_.size()); }
  int64_t blocks() const { return heads() * matrices_.front().blocks(); }
  int64_t bytes() const;

  // Prepares x, the `row`-th of the slice, for `head`.
  void prepare(const HeadSlice& slice, int64_t head, int64_t row, const float* x) const;
  // Output blocks [begin, end) of all heads' into y, the slice's first row: `ldy` from row to row, `head_out` from head
  // to head.
  void multiply(const HeadSlice& slice, int64_t begin, int64_t end, float* y, int64_t ldy, int64_t head_out) const;

 private:
  std::vector<Linear> matrices_;
};

}  // namespace octavo
