#include "experts.h"

#include <algorithm>
#include <cmath>

namespace octavo {
namespace {

// Slots of a wave: as many rows as make products of a few dozen rows with each of a hundred experts.
constexpr int64_t kMostSlots = 2048;

int64_t most_chosen(const std::vector<LayerModel>& layers) {
  int64_t most = 0;
  for (const LayerModel& layer : layers) most = std::max<int64_t>(most, layer.router.num_chosen);
  return most;
}

int64_t widest(const std::vector<LayerModel>& layers, int64_t slots, int64_t max_rows) {
  int64_t most = 0;
  for (const LayerModel& layer : layers) {
    if (layer.router.num_experts == 0) continue;
    most = std::max({most, slots * layer.mlp.intermediate_size, max_rows * layer.shared.intermediate_size});
  }
  return most;
}

int64_t beside_floats(const std::vector<LayerModel>& layers, int64_t floats) {
  for (const LayerModel& layer : layers) {
    if (layer.beside.present()) return floats;
  }
  return 0;
}

int64_t most_experts(const std::vector<LayerModel>& layers) {
  int64_t most = 0;
  for (const LayerModel& layer : layers) most = std::max<int64_t>(most, layer.router.num_experts);
  return most;
}

}  // namespace

int64_t ExpertsWorkspace::slots(const std::vector<LayerModel>& layers, int64_t max_rows, Isa isa) {
  const int64_t align = row_alignment(isa);
  int64_t most = align;
  for (const LayerModel& layer : layers) most = std::max(most, Routes::most_slots(layer.router, max_rows, align));
  return std::min(most, kMostSlots);
}

ExpertsWorkspace::ExpertsWorkspace(const std::vector<LayerModel>& layers, int64_t hidden_size, int64_t max_rows,
                                   Isa isa)
    : routes(max_rows, most_chosen(layers), row_alignment(isa), slots(layers, max_rows, isa)),
      logits(MemoryMap::of_floats(max_rows * (most_experts(layers) + 1))),
      inner(MemoryMap::of_floats(widest(layers, routes.slots(), max_rows))),
      outer(MemoryMap::of_floats(most_experts(layers) > 0 ? routes.slots() * hidden_size : 0)),
      routed(MemoryMap::of_floats(beside_floats(layers, max_rows * hidden_size))),
      gathered(MemoryMap::of_floats(beside_floats(layers, max_rows * hidden_size))),
      mixed(MemoryMap::of_floats(beside_floats(layers, max_rows * hidden_size))) {}

Experts::Experts(const LayerModel& model, int64_t hidden_size, StoredWeights& stored, const std::string& at,
                 const Packing& packing)
    : router_(model.router),
      beside_(model.beside),
      has_shared_(model.shared.intermediate_size > 0),
      has_gate_(model.shared_gate) {
  const int64_t num = router_.num_experts;
  std::vector<StoredWeight> routes = {stored.take(at + "router", num, hidden_size)};
  if (has_gate_) routes.push_back(stored.take(at + "shared_router", 1, hidden_size));
  route_ = Linear(routes, packing);
  if (router_.bias) bias_ = stored.take_vector(at + "router_bias", num);
  if (router_.correction) correction_ = stored.take_vector(at + "router_correction", num);
  if (router_.expert_scales) scales_ = stored.take_vector(at + "expert_scales", num);
  stored.take_norm(beside_.router, at + "router_norm", hidden_size);
  stored.take_norm(beside_.before, at + "experts_norm", hidden_size);
  stored.take_norm(beside_.after, at + "post_experts_norm", hidden_size);
  stored.take_norm(beside_.after_shared, at + "post_shared_norm", hidden_size);
  const MlpWeights all = MlpWeights::take(stored, at + "experts_", model.mlp, hidden_size, num);
  experts_.reserve(static_cast<size_t>(num));
  for (int64_t i = 0; i < num; ++i) {
    experts_.emplace_back(model.mlp, Nonlinearity{model.mlp.activation}, all.expert(i, num), packing);
  }
  if (has_shared_) {
    shared_ = Mlp(model.shared, {model.shared.activation},
                  MlpWeights::take(stored, at + "shared_", model.shared, hidden_size), packing);
  }
}

int64_t Experts::bytes() const {
  int64_t total = route_.bytes() + (has_shared_ ? shared_.bytes() : 0);
  for (const Mlp& expert : experts_) total += expert.bytes();
  return total;
}

int64_t Experts::scratch_floats(int64_t max_rows, int64_t slots) const {
  return std::max({experts_[0].scratch_floats(slots), has_shared_ ? shared_.scratch_floats(max_rows) : 0,
                   experts_[0].gate_up().k()});
}

const float* Experts::input_of(const ExpertsStep& step, int64_t row) const {
  return (beside_.present() ? step.space.gathered.floats() : step.input) + row * step.hidden_size;
}

float* Experts::sum_of(const ExpertsStep& step, int64_t row) const {
  return (beside_.present() ? step.space.mixed.floats() : step.out) + row * step.hidden_size;
}

void Experts::prepare(const ExpertsStep& step, int64_t begin, int64_t end) const {
  if (beside_.present()) {
    for (int64_t at = begin * step.hidden_size; at < end * step.hidden_size; at += step.hidden_size) {
      step.ops.norm(step.stream + at, step.hidden_size, beside_.router.view(), step.space.routed.floats() + at);
      step.ops.norm(step.stream + at, step.hidden_size, beside_.before.view(), step.space.gathered.floats() + at);
    }
    return route_.prepare(step.space.routed.floats(), step.hidden_size, begin, end);
  }
  route_.prepare(step.input, step.hidden_size, begin, end);
  if (has_shared_) shared_.gate_up().prepare(step.input, step.hidden_size, begin, end);
  if (shares_input(step) && !has_shared_) experts_[0].gate_up().prepare(step.input, step.hidden_size, begin, end);
}

void Experts::choose_row(const ExpertsStep& step, int64_t row) const {
  float* logits = step.space.logits.floats() + row * logits_width();
  if (router_.logits_multiplier != 1.0F) step.ops.scale(logits, router_.num_experts, router_.logits_multiplier);
  for (size_t i = 0; i < bias_.size(); ++i) logits[i] += bias_[i];
  Choice* choices = step.space.routes.choices() + row * router_.num_chosen;
  choose(router_, logits, or_null(correction_), choices);
  for (int32_t k = 0; !scales_.empty() && k < router_.num_chosen; ++k) {
    choices[k].weight *= scales_[static_cast<size_t>(choices[k].expert)];
  }
}

void Experts::route(Member& me, const ExpertsStep& step) const {
  Team& team = *me.team;
  const RowRange all{0, step.rows};
  float* inner = step.space.inner.floats();
  const int64_t blocks = route_.blocks(), stripes = has_shared_ ? shared_.stripes() : 0;
  if (beside_.present()) {
    // The MLP's input may be prepared where the router's is.
    team.each(me, blocks, 1, [&](int64_t begin, int64_t end) {
      route_.multiply(all, begin, end, step.space.logits.floats(), logits_width());
    });
    team.each(me, step.rows, 1,
              [&](int64_t begin, int64_t end) { shared_.gate_up().prepare(step.input, step.hidden_size, begin, end); });
  }
  team.each(me, blocks + stripes, 1, [&](int64_t begin, int64_t end) {
    if (begin < blocks && !beside_.present()) {
      route_.multiply(all, begin, std::min(end, blocks), step.space.logits.floats(), logits_width());
    }
    if (end > blocks) {
      shared_.activate(step.ops, all, std::max(begin - blocks, int64_t{0}), end - blocks, inner, step.scratch);
    }
  });
  team.each(me, step.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) choose_row(step, row);
    if (has_shared_) shared_.down().prepare(inner, shared_.size(), begin, end);
  });
  const int64_t down = has_shared_ ? shared_.down().blocks() : 0;
  team.each(me, 1 + down, 1, [&](int64_t begin, int64_t end) {
    if (begin == 0) step.space.routes.build(router_, step.rows);
    if (end > 1) {
      shared_.down().multiply(all, std::max<int64_t>(begin, 1) - 1, end - 1, step.out, step.hidden_size);
    }
  });
}

void Experts::gather(const ExpertsStep& step, const RoutedPair& pair) const {
  const float* row = input_of(step, pair.row);
  if (router_.weighs_input) {
    std::copy(row, row + step.hidden_size, step.scratch);
    step.ops.scale(step.scratch, step.hidden_size, pair.weight);
    row = step.scratch;
  }
  experts_[0].gate_up().prepare_row(row, pair.slot);
}

// Calls work(piece, begin, end) for each piece's part of [begin, end), where a piece has `each` units.
template <class Work>
void Experts::for_pieces(const ExpertsStep& step, const Wave& wave, int64_t each, int64_t begin, int64_t end,
                         Work&& work) const {
  end = std::min(end, wave.num_pieces * each);  // an empty wave has a unit without work
  for (int64_t at = begin; at < end;) {
    const int64_t index = at / each, last = std::min(end, (index + 1) * each);
    work(step.space.routes.piece(wave.first_piece + index), at - index * each, last - index * each);
    at = last;
  }
}

void Experts::combine(const ExpertsStep& step, const Wave& wave, int64_t row) const {
  const ExpertsWorkspace& space = step.space;
  const int64_t hidden = step.hidden_size, first = wave.first_pair, last = first + wave.num_pairs;
  float* out = sum_of(step, row);
  for (int64_t k = 0; k < router_.num_chosen; ++k) {
    const int64_t at = space.routes.pair_of(router_, row, k);
    if (at < first || at >= last) continue;
    const RoutedPair& pair = space.routes.pair(at);
    const Choice& choice = step.space.routes.choices()[row * router_.num_chosen + k];
    const float weight = router_.weighs_input ? 1.0F : pair.weight;
    step.ops.add_scaled(out, space.outer.floats() + pair.slot * hidden, hidden, weight);
    const std::vector<float>& bias = experts_[static_cast<size_t>(choice.expert)].down_bias();
    if (!bias.empty()) step.ops.add_scaled(out, bias.data(), hidden, weight);
  }
}

void Experts::run(Member& me, const ExpertsStep& step) const {
  Team& team = *me.team;
  ExpertsWorkspace& space = step.space;
  const Routes& routes = space.routes;
  const int64_t hidden = step.hidden_size, size = experts_[0].size();
  float* inner = space.inner.floats();
  const int64_t num_waves = routes.num_waves(router_, step.rows);
  for (int64_t i = 0; i < num_waves; ++i) {
    const Wave& wave = routes.wave(i);
    if (!shares_input(step)) {
      team.each(me, std::max(1, wave.num_pairs.load()), 4, [&](int64_t begin, int64_t end) {
        end = std::min<int64_t>(end, wave.num_pairs);
        for (int64_t at = begin; at < end; ++at) gather(step, routes.pair(wave.first_pair + at));
      });
    } else if (has_shared_ || i > 0) {  // other activations may lie where the row's do
      team.each(me, 1, 1, [&](int64_t, int64_t) { experts_[0].gate_up().prepare_row(input_of(step, 0), 0); });
    }
    const int64_t stripes = experts_[0].stripes(), blocks = experts_[0].down().blocks();
    team.each(me, std::max<int64_t>(1, wave.num_pieces * stripes), 1, [&](int64_t begin, int64_t end) {
      for_pieces(step, wave, stripes, begin, end, [&](const ExpertPiece& piece, int64_t from, int64_t to) {
        const int64_t input = shares_input(step) ? 0 : piece.slot;
        experts_[static_cast<size_t>(piece.expert)].activate(step.ops, {input, input + piece.count}, from, to,
                                                             inner + piece.slot * size, step.scratch);
      });
    });
    team.each(me, std::max(1, wave.num_pairs.load()), 4, [&](int64_t begin, int64_t end) {
      end = std::min<int64_t>(end, wave.num_pairs);
      for (int64_t at = begin; at < end; ++at) {
        const int64_t slot = routes.pair(wave.first_pair + at).slot;
        experts_[0].down().prepare_row(inner + slot * size, slot);
      }
    });
    team.each(me, std::max<int64_t>(1, wave.num_pieces * blocks), 1, [&](int64_t begin, int64_t end) {
      for_pieces(step, wave, blocks, begin, end, [&](const ExpertPiece& piece, int64_t from, int64_t to) {
        experts_[static_cast<size_t>(piece.expert)].down().multiply({piece.slot, piece.slot + piece.count}, from, to,
                                                                    space.outer.floats() + piece.slot * hidden, hidden);
      });
    });
    team.each(me, step.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        if (i == 0) begin_row(step, row);
        combine(step, wave, row);
        if (i + 1 == num_waves && beside_.present()) finish_row(step, row);
      }
    });
  }
}

void Experts::finish_row(const ExpertsStep& step, int64_t row) const {
  const int64_t hidden = step.hidden_size;
  float *out = step.out + row * hidden, *mixed = sum_of(step, row);
  step.ops.norm(out, hidden, beside_.after_shared.view(), out);
  step.ops.norm(mixed, hidden, beside_.after.view(), mixed);
  step.ops.add_scaled(out, mixed, hidden, 1.0F);
}

// The shared expert's result, or nothing, before any other is added.
void Experts::begin_row(const ExpertsStep& step, int64_t row) const {
  float* out = step.out + row * step.hidden_size;
  if (beside_.present()) std::fill_n(sum_of(step, row), step.hidden_size, 0.0F);
  if (!has_shared_) {
    std::fill(out, out + step.hidden_size, 0.0F);
    return;
  }
  const std::vector<float>& bias = shared_.down_bias();
  if (!bias.empty()) step.ops.add_scaled(out, bias.data(), step.hidden_size, 1.0F);
  if (!has_gate_) return;
  const float gate = step.space.logits.floats()[row * logits_width() + router_.num_experts];
  step.ops.scale(out, step.hidden_size, 1.0F / (1.0F + std::exp(-gate)));
}

}  // namespace octavo
