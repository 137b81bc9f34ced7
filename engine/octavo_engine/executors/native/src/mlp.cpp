#include "mlp.h"

#include <algorithm>

namespace octavo {
namespace {

constexpr int64_t kScratch = 64 * 1024;  // floats of a thread's part of gate and up, about what its L2 cache holds

}  // namespace

MlpWeights MlpWeights::take(StoredWeights& stored, const std::string& prefix, const MlpModel& model,
                            int64_t hidden_size, int64_t num_experts) {
  const int64_t inner = num_experts * model.intermediate_size, outer = num_experts * hidden_size;
  MlpWeights w;
  if (model.gated) {
    w.gate = stored.take(prefix + "gate", inner, hidden_size);
    w.gate_bias = stored.take_bias(prefix + "gate_bias", inner);
  }
  w.up = stored.take(prefix + "up", inner, hidden_size);
  w.up_bias = stored.take_bias(prefix + "up_bias", inner);
  w.down = stored.take(prefix + "down", outer, model.intermediate_size);
  w.down_bias = stored.take_bias(prefix + "down_bias", outer);
  return w;
}

MlpWeights MlpWeights::expert(int64_t index, int64_t num_experts) const {
  const auto part = [&](const std::vector<float>& v) {
    const auto size = static_cast<int64_t>(v.size()) / num_experts;
    return std::vector<float>(v.begin() + index * size, v.begin() + (index + 1) * size);
  };
  MlpWeights w;
  if (gate.rows > 0) w.gate = gate.part(index, num_experts);
  w.up = up.part(index, num_experts);
  w.down = down.part(index, num_experts);
  w.gate_bias = part(gate_bias);
  w.up_bias = part(up_bias);
  w.down_bias = part(down_bias);
  return w;
}

Mlp::Mlp(const MlpModel& model, Nonlinearity act, const MlpWeights& weights, const Packing& packing)
    : model_(model),
      act_(act),
      gate_up_(model.sparse  ? Linear({weights.gate, weights.up}, packing)
               : model.gated ? Linear::gate_up(weights.gate, weights.up, packing)
                             : Linear({weights.up}, packing)),
      down_({weights.down}, packing),
      gate_bias_(weights.gate_bias),
      up_bias_(weights.up_bias),
      down_bias_(weights.down_bias) {}

void Mlp::activate_whole(const Operations& ops, float* gate_up, float* out) const {
  ops.cut_off(gate_up, size(), model_.cutoff);
  ops.activate(act_, gate_up, gate_up + size(), nullptr, nullptr, size(), out);
}

int64_t Mlp::scratch_floats(int64_t rows) const { return std::max(kScratch, rows * width() * (model_.gated ? 2 : 1)); }

// Stripes side by side: of interleaved weights each with its gate before its up; of others all gates before all ups.
void Mlp::multiply(RowRange rows, int64_t begin, int64_t end, float* y) const {
  const int64_t columns = (end - begin) * width();
  if (gate_up_.interleaved() > 0) {
    const int64_t blocks = 2 * gate_up_.interleaved();
    gate_up_.multiply(rows, begin * blocks, std::min(end * blocks, gate_up_.blocks()), y - begin * 2 * width(),
                      2 * columns);
    return;
  }
  const int64_t ld = model_.gated ? 2 * columns : columns, last = std::min(end, stripes());
  gate_up_.multiply(rows, begin, last, y - begin * width(), ld);
  if (!model_.gated) return;
  // The rows of up begin a new block behind those of gate.
  gate_up_.multiply(rows, stripes() + begin, stripes() + last, y + columns - (size() + begin * width()), ld);
}

void Mlp::activate(const Operations& ops, RowRange rows, int64_t begin, int64_t end, float* out, float* scratch,
                   const LowRankTerm* term) const {
  const int64_t stripe = width() * (model_.gated ? 2 : 1);
  const int64_t most = std::max<int64_t>(1, kScratch / (rows.count() * stripe));
  const std::vector<float>& bias = model_.gated ? gate_bias_ : up_bias_;
  for (int64_t at = begin; at < end; at += most) {
    const int64_t count = std::min(most, end - at), ld = count * stripe;
    multiply(rows, at, at + count, scratch);
    // What can be activated in one go: a stripe, or all of them where their gates are side by side.
    const bool in_turn = gate_up_.interleaved() > 0;
    const int64_t pieces = in_turn ? count : 1, piece = in_turn ? width() : count * width();
    for (int64_t k = 0; term != nullptr && k < pieces; ++k) {
      const int64_t column = at * width() + k * piece, last = std::min(column + piece, size());
      term->add(column, last, scratch + k * stripe, ld);
      if (model_.gated) term->add(size() + column, size() + last, scratch + k * stripe + piece, ld);
    }
    for (int64_t row = 0; row < rows.count(); ++row) {
      for (int64_t k = 0; k < pieces; ++k) {
        const int64_t column = at * width() + k * piece;
        const float* gate = scratch + row * ld + k * stripe;
        ops.activate(act_, gate, model_.gated ? gate + piece : nullptr, or_null(bias, column),
                     or_null(up_bias_, column), std::min(piece, size() - column), out + row * size() + column);
      }
    }
  }
}

}  // namespace octavo
