#include "low_rank.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "matmul/half.h"

namespace octavo {
namespace {

constexpr int64_t kPadding = 16;  // floats of the widest vector

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

void put(std::vector<uint8_t>& bytes, int64_t at, float value, bool bf16) {
  if (bf16) {
    const uint16_t half = float_to_bfloat(value);
    std::memcpy(bytes.data() + at * 2, &half, sizeof half);
  } else {
    std::memcpy(bytes.data() + at * 4, &value, sizeof value);
  }
}

struct Place {
  LowRankPlace place;
  int64_t column, in, out;
};

// Where a layer multiplies the weight that ends in `last`. Of no outputs: nowhere.
Place place_of(const LayerModel& layer, int64_t hidden, const std::string& last) {
  const int64_t q = layer.q_size(), k = layer.k_size(), v = layer.v_size();
  if (!layer.is_latent()) {
    if (last == "q") return {LowRankPlace::Qkv, 0, hidden, q};
    if (last == "k") return {LowRankPlace::Qkv, q, hidden, k};
    if (last == "v") return {LowRankPlace::Qkv, q + k, hidden, v};
    if (last == "o") return {LowRankPlace::Output, 0, layer.o_size(), hidden};
  }
  const int64_t inner = layer.mlp.intermediate_size;
  if (layer.router.num_experts == 0) {
    if (last == "gate" && layer.mlp.gated) return {LowRankPlace::GateUp, 0, hidden, inner};
    if (last == "up") return {LowRankPlace::GateUp, layer.mlp.gated ? inner : 0, hidden, inner};
    if (last == "down") return {LowRankPlace::Down, 0, inner, hidden};
  }
  return {LowRankPlace::Qkv, 0, 0, 0};
}

}  // namespace

void LowRankSet::add(const LowRankWeight& weight, int64_t column, bool bf16) {
  const int64_t size = bf16 ? 2 : 4;
  bf16_ = bf16;
  k_ = weight.in;
  lda_ = round_up(k_, kPadding);
  Part part{column, weight.out, weight.rank, rank_, {}};
  a_.resize(static_cast<size_t>((rank_ + weight.rank) * lda_ * size));
  for (int64_t r = 0; r < weight.rank; ++r) {
    for (int64_t c = 0; c < k_; ++c) put(a_, (rank_ + r) * lda_ + c, weight.a[r * k_ + c], bf16);
  }
  part.b.resize(static_cast<size_t>(round_up(weight.out, kLowRankBlock) * weight.rank * size));
  for (int64_t c = 0; c < weight.out; ++c) {
    const int64_t block = c / kLowRankBlock * kLowRankBlock * weight.rank;
    for (int64_t r = 0; r < weight.rank; ++r) {
      put(part.b, block + r * kLowRankBlock + c % kLowRankBlock, weight.b[c * weight.rank + r], bf16);
    }
  }
  rank_ += weight.rank;
  parts_.push_back(std::move(part));
}

int64_t LowRankSet::bytes() const {
  auto total = static_cast<int64_t>(a_.size());
  for (const Part& part : parts_) total += static_cast<int64_t>(part.b.size());
  return total;
}

void LowRankSet::in(const Operations& ops, const int32_t* rows, int64_t count, const float* x, int64_t ldx, float* out,
                    int64_t ldo) const {
  ops.low_rank_in({a_.data(), bf16_, rank_, k_, lda_, rows, count, x, ldx, out, ldo});
}

void LowRankSet::out(const Operations& ops, const int32_t* rows, int64_t count, int64_t begin, int64_t end,
                     const float* t, int64_t ldt, float* y, int64_t ldy) const {
  for (const Part& part : parts_) {
    const int64_t from = std::max(begin, part.column), to = std::min(end, part.column + part.n);
    if (from >= to) continue;
    ops.low_rank_out({part.b.data(), bf16_, part.rank, from - part.column, to - part.column, rows, count,
                      t + part.first_rank, ldt, y + (from - begin), ldy});
  }
}

LowRankAdapter::LowRankAdapter(const DecoderModel& model, const std::vector<LowRankWeight>& weights, bool bf16)
    : layers_(model.layers.size() * kLowRankPlaces) {
  for (const LowRankWeight& weight : weights) {
    const size_t dot = weight.name.rfind('.'), first = weight.name.find('.') + 1;
    Place place{LowRankPlace::Qkv, 0, 0, 0};
    size_t layer = 0;
    if (weight.name.rfind("layers.", 0) == 0 && dot > first) {
      layer = std::stoul(weight.name.substr(first, dot - first));
      if (layer < model.layers.size()) {
        place = place_of(model.layers[layer], model.hidden_size, weight.name.substr(dot + 1));
      }
    }
    if (place.out == 0) throw std::invalid_argument("the model has no weight " + weight.name + " that can be adapted");
    if (weight.rank <= 0 || weight.in != place.in || weight.out != place.out) {
      throw std::invalid_argument(weight.name + " is " + std::to_string(place.out) + " × " + std::to_string(place.in) +
                                  ", and its adapter " + std::to_string(weight.out) + " × " +
                                  std::to_string(weight.rank) + " × " + std::to_string(weight.in));
    }
    layers_[layer * kLowRankPlaces + static_cast<size_t>(place.place)].add(weight, place.column, bf16);
  }
}

int64_t LowRankAdapter::widest() const {
  int64_t rank = 0;
  for (const LowRankSet& set : layers_) rank = std::max(rank, set.rank());
  return rank;
}

int64_t LowRankAdapter::bytes() const {
  int64_t total = 0;
  for (const LowRankSet& set : layers_) total += set.bytes();
  return total;
}

void LowRankStep::reserve(int64_t rows, int64_t rank) {
  if (rank <= width_) return;
  width_ = round_up(rank, kPadding);
  numbers_ = MemoryMap::of_floats(rows * width_);
}

void LowRankStep::add(const LowRankAdapter* adapter, int32_t first_row, int32_t count) {
  auto group = std::find_if(groups_.begin(), groups_.end(), [adapter](const Group& g) { return g.adapter == adapter; });
  if (group == groups_.end()) group = groups_.insert(groups_.end(), {adapter, {}});
  for (int32_t i = 0; i < count; ++i) group->rows.push_back(first_row + i);
}

void LowRankStep::in(const Operations& ops, size_t layer, LowRankPlace place, const float* x, int64_t ldx,
                     int64_t begin, int64_t end) {
  for (const Group& group : groups_) {
    const LowRankSet& set = group.adapter->at(layer, place);
    if (set.rank() == 0) continue;
    const auto first = std::lower_bound(group.rows.begin(), group.rows.end(), begin);
    const auto last = std::lower_bound(first, group.rows.end(), end);
    if (first == last) continue;
    set.in(ops, &*first, last - first, x, ldx, numbers_.floats(), width_);
  }
}

void LowRankStep::out(const Operations& ops, size_t layer, LowRankPlace place, int64_t begin, int64_t end, float* y,
                      int64_t ldy) const {
  for (const Group& group : groups_) {
    const LowRankSet& set = group.adapter->at(layer, place);
    if (set.rank() == 0) continue;
    set.out(ops, group.rows.data(), static_cast<int64_t>(group.rows.size()), begin, end, numbers_.floats(), width_, y,
            ldy);
  }
}

}  // namespace octavo
