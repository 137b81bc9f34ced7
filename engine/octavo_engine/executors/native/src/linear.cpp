#include "linear.h"

#include <algorithm>

namespace octavo {

Activations& ActivationPool::get(ActivationKind kind, int64_t k) {
  auto& entry = pool_[{static_cast<int32_t>(kind), k}];
  if (!entry) entry = std::make_unique<Activations>(kind, max_rows_, k, isa_);
  return *entry;
}

void Linear::add(std::unique_ptr<Matrix> matrix, ActivationPool& pool) {
  Activations* input = &pool.get(matrix->kind(), matrix->k());
  if (std::find(inputs_.begin(), inputs_.end(), input) == inputs_.end()) inputs_.push_back(input);
  k_ = matrix->k();
  const int64_t n = matrix->n(), blocks = matrix->blocks();
  parts_.push_back({std::move(matrix), n_, blocks_, input});
  n_ += n;
  blocks_ += blocks;
}

Linear::Linear(const std::vector<StoredWeight>& weights, const Packing& packing) {
  const auto& [widen, pool, team] = packing;
  for (size_t i = 0; i < weights.size();) {
    std::vector<Rows> stack;
    size_t j = i;
    for (; j < weights.size() && stackable(weights[i].format, weights[j].format, widen); ++j) {
      stack.push_back({weights[j].format, weights[j].rows, weights[j].data});
    }
    add(pack(stack, weights[i].cols, widen, pool.isa(), team), pool);
    i = j;
  }
}

Linear Linear::gate_up(const StoredWeight& gate, const StoredWeight& up, const Packing& packing) {
  const auto& [widen, pool, team] = packing;
  const int64_t blocks = gate.rows % (2 * kBlockWidth) == 0 ? 2 : 1;
  const int64_t stripe = blocks * kBlockWidth;
  if (gate.format != up.format || gate.rows % stripe != 0) return Linear({gate, up}, packing);
  Linear linear;
  linear.add(pack({{gate.format, 2 * gate.rows, gate.data, up.data, stripe}}, gate.cols, widen, pool.isa(), team),
             pool);
  linear.interleaved_ = blocks;
  return linear;
}

int64_t Linear::column(int64_t block) const {
  for (const Part& part : parts_) {
    if (block < part.first_block + part.matrix->blocks()) {
      return part.column + part.matrix->block_column(block - part.first_block);
    }
  }
  return n_;
}

int64_t Linear::bytes() const {
  int64_t total = 0;
  for (const Part& part : parts_) total += part.matrix->bytes();
  return total;
}

void Linear::prepare(const float* x, int64_t ldx, int64_t begin, int64_t end) const {
  for (Activations* input : inputs_) input->prepare(x + begin * ldx, ldx, begin, end);
}

void Linear::prepare_row(const float* x, int64_t row) const {
  for (Activations* input : inputs_) input->prepare(x, k_, row, row + 1);
}

void Linear::multiply(RowRange rows, int64_t begin, int64_t end, float* y, int64_t ldy) const {
  for (const Part& part : parts_) {
    const int64_t from = std::max<int64_t>(begin - part.first_block, 0);
    const int64_t to = std::min<int64_t>(end - part.first_block, part.matrix->blocks());
    if (from < to) matmul(*part.matrix, *part.input, rows, from, to, y + part.column, ldy);
  }
}

}  // namespace octavo
