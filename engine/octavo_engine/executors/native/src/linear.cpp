#include "linear.h"

#include <algorithm>
#include <stdexcept>

namespace octavo {

int64_t row_bytes(Format format, int64_t cols) {
  switch (format) {
    case Format::F32: return cols * 4;
    case Format::F16:
    case Format::BF16: return cols * 2;
    case Format::Q4_0: return cols / 32 * 18;
    case Format::Q4_1: return cols / 32 * 20;
    case Format::Q5_0: return cols / 32 * 22;
    case Format::Q5_1: return cols / 32 * 24;
    case Format::Q8_0: return cols / 32 * 34;
    case Format::Q4_K: return cols / 256 * 144;
    case Format::Q5_K: return cols / 256 * 176;
    case Format::Q6_K: return cols / 256 * 210;
  }
  throw std::invalid_argument("unknown weight format " + std::to_string(static_cast<int>(format)));
}

Activations& ActivationPool::get(ActivationKind kind, int64_t k) {
  auto& entry = pool_[{static_cast<int32_t>(kind), k}];
  if (!entry) entry = std::make_unique<Activations>(kind, max_rows_, k);
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

Linear::Linear(const std::vector<StoredWeight>& weights, int32_t widen, Isa isa, ActivationPool& pool) {
  for (size_t i = 0; i < weights.size();) {
    std::vector<Rows> stack;
    size_t j = i;
    for (; j < weights.size() && stackable(weights[i].format, weights[j].format, widen); ++j) {
      stack.push_back({weights[j].format, weights[j].rows, weights[j].data});
    }
    add(pack(stack, weights[i].cols, widen, isa), pool);
    i = j;
  }
}

Linear Linear::gate_up(const StoredWeight& gate, const StoredWeight& up, int32_t widen, Isa isa, ActivationPool& pool) {
  Linear linear;
  if (gate.format == up.format) {
    const int64_t row = row_bytes(gate.format, gate.cols);
    const int64_t width = pack({{gate.format, std::min<int64_t>(gate.rows, 4), gate.data}}, gate.cols, widen, isa)
                              ->block_width();
    const int64_t blocks = gate.rows % (2 * width) == 0 ? 2 : 1;
    const int64_t stripe = blocks * width;
    if (gate.rows % stripe == 0) {
      std::vector<uint8_t> mixed(static_cast<size_t>(2 * gate.rows * row));
      uint8_t* to = mixed.data();
      for (int64_t r = 0; r < gate.rows; r += stripe) {
        to = std::copy_n(gate.data + r * row, stripe * row, to);
        to = std::copy_n(up.data + r * row, stripe * row, to);
      }
      linear.add(pack({{gate.format, 2 * gate.rows, mixed.data()}}, gate.cols, widen, isa), pool);
      linear.interleaved_ = blocks;
      return linear;
    }
  }
  return Linear({gate, up}, widen, isa, pool);
}

int64_t Linear::bytes() const {
  int64_t total = 0;
  for (const Part& part : parts_) total += part.matrix->bytes();
  return total;
}

void Linear::prepare(const float* x, int64_t ldx, int64_t begin, int64_t end, Isa isa) const {
  for (Activations* input : inputs_) input->prepare(x + begin * ldx, ldx, begin, end, isa);
}

void Linear::multiply(int64_t m, int64_t begin, int64_t end, float* y, int64_t ldy) const {
  for (const Part& part : parts_) {
    const int64_t from = std::max<int64_t>(begin - part.first_block, 0);
    const int64_t to = std::min<int64_t>(end - part.first_block, part.matrix->blocks());
    if (from < to) matmul(*part.matrix, *part.input, m, from, to, y + part.column, ldy);
  }
}

}  // namespace octavo
