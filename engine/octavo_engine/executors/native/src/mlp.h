// One MLP, of a layer or of an expert: its packed weights, and the part of the work that a thread does.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "linear.h"
#include "low_rank.h"
#include "model.h"
#include "stored_weights.h"

namespace octavo {

// The stored weights of an MLP; of several experts, one after another in each.
struct MlpWeights {
  StoredWeight gate, up, down;  // gate has no rows where there is none
  std::vector<float> gate_bias, up_bias, down_bias;

  // Takes `prefix`gate, `prefix`up and so on.
  static MlpWeights take(StoredWeights& stored, const std::string& prefix, const MlpModel& model, int64_t hidden_size,
                         int64_t num_experts = 1);
  MlpWeights expert(int64_t index, int64_t num_experts) const;
};

class Mlp {
 public:
  Mlp() = default;
  Mlp(const MlpModel& model, Nonlinearity act, const MlpWeights& weights, const Packing& packing);

  // Reads the input, of hidden_size.
  const Linear& gate_up() const { return gate_up_; }
  // Reads what `activate` writes; its result lacks `down_bias`.
  const Linear& down() const { return down_; }
  const std::vector<float>& down_bias() const { return down_bias_; }
  int64_t size() const { return model_.intermediate_size; }
  // Of a sparse one `activate` does not serve: its gate and up are multiplied whole, [rows][2 * size()], and then cut.
  bool sparse() const { return model_.sparse; }
  void activate_whole(const Operations& ops, float* gate_up, float* out) const;
  int64_t bytes() const { return gate_up_.bytes() + down_.bytes(); }

  // What `activate` can be shared out by: some columns of the result.
  int64_t stripes() const { return (model_.intermediate_size + width() - 1) / width(); }
  // Stripes [begin, end) of act(gate) * up, of `rows` of the prepared input, into out [rows.count()][size()].
  // `term` is added to gate and up, where an adapter has one.
  void activate(const Operations& ops, RowRange rows, int64_t begin, int64_t end, float* out, float* scratch,
                const LowRankTerm* term = nullptr) const;
  // Floats of scratch that `activate` needs for as many rows.
  int64_t scratch_floats(int64_t rows) const;

 private:
  // Columns of a stripe.
  int64_t width() const { return std::max<int64_t>(gate_up_.interleaved(), 1) * kBlockWidth; }
  void multiply(RowRange rows, int64_t begin, int64_t end, float* y) const;

  MlpModel model_;
  Nonlinearity act_;
  Linear gate_up_, down_;
  std::vector<float> gate_bias_, up_bias_, down_bias_;
};

}  // namespace octavo
