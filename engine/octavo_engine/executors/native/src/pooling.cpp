// What a model that pools makes of its last rows: a vector of each prompt, through its dense layers.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "decoder.h"

namespace octavo {
namespace {

// Of what DenseActivation and the kernels' Activation both have.
Activation kernel_of(DenseActivation activation) {
  switch (activation) {
    case DenseActivation::Gelu:
      return Activation::Gelu;
    case DenseActivation::GeluTanh:
      return Activation::GeluTanh;
    case DenseActivation::Relu:
      return Activation::Relu;
    default:
      return Activation::Silu;
  }
}

void activate(const Operations& ops, DenseActivation activation, float* x, int64_t n) {
  if (activation == DenseActivation::None) return;
  if (activation == DenseActivation::Tanh) {
    for (int64_t i = 0; i < n; ++i) x[i] = std::tanh(x[i]);
    return;
  }
  ops.activate(Nonlinearity{kernel_of(activation)}, x, nullptr, nullptr, nullptr, n, x);
}

}  // namespace

std::vector<int32_t> Decoder::pooled_indices() const {
  std::vector<int32_t> indices;
  indices.reserve(plan_.sequences.size());
  for (const SequenceRows& sequence : plan_.sequences) indices.push_back(sequence.index);
  return indices;
}

void Decoder::pool(Member& me, const Residual& residual) {
  const int64_t hidden = model_.hidden_size;
  const auto count = static_cast<int64_t>(plan_.sequences.size());
  team_.each(me, plan_.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* x = x_.floats() + row * hidden;
      add_residual(residual, row, scratch(me));
      if (model_.final_norm.present) ops_.norm(x, hidden, model_.final_norm.view(), x);
    }
  });
  team_.each(me, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      pool_rows(plan_.sequences[static_cast<size_t>(i)], pooled_.floats() + i * hidden);
    }
  });
  for (size_t at = 0; at < dense_.size(); ++at) {
    const DenseModel& dense = model_.pooling.dense[at];
    team_.each(me, count, 1,
               [&](int64_t begin, int64_t end) { dense_[at].prepare(pooled_.floats(), dense.in_size, begin, end); });
    multiply(me, dense_[at], count, narrow_.floats());
    team_.each(me, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* y = pooled_.floats() + i * dense.out_size;
        std::memcpy(y, narrow_.floats() + i * dense.out_size, static_cast<size_t>(dense.out_size) * sizeof(float));
        if (dense.bias) ops_.add_scaled(y, dense_bias_[at].data(), dense.out_size, 1.0F);
        activate(ops_, dense.activation, y, dense.out_size);
        if (dense.norm.present) ops_.norm(y, dense.out_size, dense.norm.view(), y);
      }
    });
  }
  mark(me, Phase::Head);
}

void Decoder::pool_rows(const SequenceRows& sequence, float* out) const {
  const int64_t hidden = model_.hidden_size;
  const float* rows = x_.floats() + sequence.first_row * hidden;
  const PoolingKind kind = model_.pooling.kind;
  const int64_t first = kind == PoolingKind::Last ? sequence.count - 1 : 0;
  std::copy(rows + first * hidden, rows + (first + 1) * hidden, out);
  if (kind == PoolingKind::Max) {
    for (int64_t row = 1; row < sequence.count; ++row) {
      for (int64_t i = 0; i < hidden; ++i) out[i] = std::max(out[i], rows[row * hidden + i]);
    }
  } else if (kind == PoolingKind::Mean) {
    for (int64_t row = 1; row < sequence.count; ++row) ops_.add_scaled(out, rows + row * hidden, hidden, 1.0F);
    ops_.scale(out, hidden, 1.0F / static_cast<float>(sequence.count));
  }
}

}  // namespace octavo
