// A layer's mixture of experts: packed weights, and the phases in which a step's rows go through them. Of an expert
// that no row goes to, nothing is read.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "linear.h"
#include "memory_map.h"
#include "mlp.h"
#include "model.h"
#include "parallel.h"
#include "routing.h"
#include "stored_weights.h"

namespace octavo {

// What all layers' experts share, from one to the next.
struct ExpertsWorkspace {
  // For steps of `max_rows` rows through any of `layers`.
  ExpertsWorkspace(const std::vector<LayerModel>& layers, int64_t hidden_size, int64_t max_rows, Isa isa);

  // Rows that prepared activations must have room for, beside those of a step.
  static int64_t slots(const std::vector<LayerModel>& layers, int64_t max_rows, Isa isa);

  Routes routes;
  MemoryMap logits;                   // [max_rows][experts, and the shared one's gate]
  MemoryMap inner;                    // [slots][intermediate_size], or [max_rows][that of a shared expert]
  MemoryMap outer;                    // [slots][hidden_size]
  MemoryMap routed, gathered, mixed;  // [max_rows][hidden_size] each, where a mixture lies beside an MLP
};

// One step's rows, as the decoder hands them over.
struct ExpertsStep {
  const Operations& ops;
  ExpertsWorkspace& space;
  int64_t rows;
  int64_t hidden_size;
  const float* input;   // [rows][hidden_size], normed
  float* out;           // the same
  float* scratch;       // of this thread, as scratch_floats() says
  const float* stream;  // [rows][hidden_size], before the norm
};

class Experts {
 public:
  Experts() = default;
  // Takes the weights of the layer `at`.
  Experts(const LayerModel& model, int64_t hidden_size, StoredWeights& stored, const std::string& at,
          const Packing& packing);

  bool empty() const { return experts_.empty(); }
  int64_t bytes() const;
  int64_t scratch_floats(int64_t max_rows, int64_t slots) const;

  // Rows [begin, end) of the input, for `route` and the shared expert.
  void prepare(const ExpertsStep& step, int64_t begin, int64_t end) const;
  // Chooses each row's experts; computes the shared expert.
  void route(Member& me, const ExpertsStep& step) const;
  // Leaves the sum of all experts in step.out.
  void run(Member& me, const ExpertsStep& step) const;

 private:
  // Of a single row all experts read one input.
  bool shares_input(const ExpertsStep& step) const { return step.rows == 1 && !router_.weighs_input; }
  int64_t logits_width() const { return router_.num_experts + (has_gate_ ? 1 : 0); }
  void choose_row(const ExpertsStep& step, int64_t row) const;
  void begin_row(const ExpertsStep& step, int64_t row) const;
  // Of a mixture beside an MLP: the sum of both, each normed.
  void finish_row(const ExpertsStep& step, int64_t row) const;
  // What experts read, and where their sum goes.
  const float* input_of(const ExpertsStep& step, int64_t row) const;
  float* sum_of(const ExpertsStep& step, int64_t row) const;
  void gather(const ExpertsStep& step, const RoutedPair& pair) const;
  void combine(const ExpertsStep& step, const Wave& wave, int64_t row) const;
  template <class Work>
  void for_pieces(const ExpertsStep& step, const Wave& wave, int64_t each, int64_t begin, int64_t end,
                  Work&& work) const;

  RouterModel router_;
  BesideModel beside_;
  bool has_shared_ = false, has_gate_ = false;
  Linear route_;  // a row for each expert, and the shared one's gate
  std::vector<float> bias_, correction_, scales_;
  std::vector<Mlp> experts_;
  Mlp shared_;
};

}  // namespace octavo
