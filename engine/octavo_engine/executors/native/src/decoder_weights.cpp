// A decoder's weights: packed layer by layer as they come, and the buffers whose sizes follow from them.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "decoder.h"

namespace octavo {
namespace {

float softplus(float x) { return std::log1p(std::exp(x)); }

}  // namespace

void Decoder::add_weight(const std::string& name, int32_t format, int64_t rows, int64_t cols, const uint8_t* data) {
  stored_.add(name, format, rows, cols, data);
}

Linear Decoder::pack_linear(const std::vector<StoredWeight>& weights) {
  Linear linear(weights, {options_.widen, pool_, team_});
  packed_bytes_ += linear.bytes();
  return linear;
}

// What precedes the layers.
void Decoder::pack_front() {
  const int64_t hidden = model_.hidden_size, width = model_.embedding_size;
  (model_.tied_head ? head_ : embedding_) = pack_linear({stored_.take("embedding", model_.vocab_size, width)});
  if (model_.num_positions > 0) positions_ = pack_linear({stored_.take("positions", model_.num_positions, hidden)});
  if (model_.num_token_types > 0) {
    token_types_ = pack_linear({stored_.take("token_types", model_.num_token_types, hidden)});
  }
  stored_.take_norm(model_.embedding_norm, "embedding_norm", hidden);
  if (model_.per_layer_count > 0) {
    const int64_t width = static_cast<int64_t>(layers_.size()) * model_.per_layer_size();
    per_layer_embedding_ = pack_linear({stored_.take("per_layer_embedding", model_.per_layer_count, width)});
    per_layer_projection_ = pack_linear({stored_.take("per_layer_projection", width, hidden)});
    stored_.take_norm(model_.per_layer_norm, "per_layer_norm", model_.per_layer_size());
  }
  std::vector<StoredWeight> streams;
  for (int64_t i = 1; i <= model_.more_streams(); ++i) {
    streams.push_back(stored_.take("stream_in_" + std::to_string(i), hidden, hidden));
  }
  if (!streams.empty()) streams_in_ = pack_linear(streams);
  if (model_.projected()) project_in_ = pack_linear({stored_.take("project_in", hidden, width)});
}

void Decoder::pack_attention(LayerModel& model, Layer& layer, const std::string& at) {
  const int64_t hidden = model_.hidden_size;
  layer.o = pack_linear({stored_.take(at + "o", hidden, model.o_size())});
  layer.o_bias = stored_.take_bias(at + "o_bias", hidden);
  if (model.sinks) layer.sinks = stored_.take_vector(at + "sinks", model.num_heads);
  if (model.is_latent()) return pack_latent(model, layer, at);
  std::vector<StoredWeight> inner = {stored_.take(at + "q", model.q_size(), hidden)};
  if (model.kv_from < 0) {
    inner.push_back(stored_.take(at + "k", model.k_size(), hidden));
    inner.push_back(stored_.take(at + "v", model.v_size(), hidden));
  }
  if (model.output_gate) inner.push_back(stored_.take(at + "output_gate", model.o_size(), hidden));
  layer.qkv = pack_linear(inner);
  layer.q_bias = stored_.take_bias(at + "q_bias", model.q_size());
  layer.k_bias = stored_.take_bias(at + "k_bias", model.k_size());
  layer.v_bias = stored_.take_bias(at + "v_bias", model.v_size());
  const bool one = model.qk_norm_span == QkNormSpan::Head;
  stored_.take_norm(model.q_norm, at + "q_norm", one ? model.head_dim_k : model.q_size());
  if (model.kv_from >= 0) return;
  stored_.take_norm(model.k_norm, at + "k_norm", one ? model.head_dim_k : model.k_size());
}

void Decoder::pack_beside(LayerModel& model, Layer& layer, const std::string& at) {
  const int64_t hidden = model_.hidden_size, num = model.altup.num, size = model.per_layer.size;
  if (model.laurel.rank > 0) {
    layer.laurel_left = pack_linear({stored_.take(at + "laurel_left", model.laurel.rank, hidden)});
    layer.laurel_right = pack_linear({stored_.take(at + "laurel_right", hidden, model.laurel.rank)});
    stored_.take_norm(model.laurel.norm, at + "laurel_norm", hidden);
  }
  if (num > 0) {
    layer.altup_router = pack_linear({stored_.take(at + "altup_router", num, hidden)});
    stored_.take_norm(model.altup.norm, at + "altup_norm", hidden);
    layer.altup_prediction = stored_.take_vector(at + "altup_prediction", num * num * num);
    layer.altup_correction = stored_.take_vector(at + "altup_correction", num * num);
    layer.altup_scale = stored_.take_vector(at + "altup_scale", hidden);
  }
  if (size > 0) {
    layer.per_layer_gate = pack_linear({stored_.take(at + "per_layer_gate", size, hidden)});
    layer.per_layer_out = pack_linear({stored_.take(at + "per_layer_out", hidden, size)});
    stored_.take_norm(model.per_layer.norm, at + "post_per_layer_norm", hidden);
  }
  if (model.scaled) layer.scale = stored_.take_vector(at + "layer_scale", 1)[0];
}

void Decoder::pack_mlp(const LayerModel& model, Layer& layer, const std::string& at) {
  if (model.router.num_experts > 0) {
    layer.experts = Experts(model, model_.hidden_size, stored_, at, {options_.widen, pool_, team_});
    packed_bytes_ += layer.experts.bytes();
    return;
  }
  Nonlinearity act{model.mlp.activation};
  if (act.kind == Activation::Xielu) {
    act.positive = softplus(stored_.take_vector(at + "xielu_positive", 1)[0]);
    act.negative = 0.5F + softplus(stored_.take_vector(at + "xielu_negative", 1)[0]);
  }
  layer.mlp =
      Mlp(model.mlp, act, MlpWeights::take(stored_, at, model.mlp, model_.hidden_size), {options_.widen, pool_, team_});
  packed_bytes_ += layer.mlp.bytes();
}

void Decoder::pack_layers(size_t end) {
  if (stored_.has("embedding")) pack_front();
  for (; packed_layers_ < std::min(end, layers_.size()); ++packed_layers_) {
    LayerModel& model = model_.layers[packed_layers_];
    Layer& layer = layers_[packed_layers_];
    const std::string at = "layers." + std::to_string(packed_layers_) + ".";
    pack_attention(model, layer, at);
    pack_beside(model, layer, at);
    pack_mlp(model, layer, at);
    stored_.take_norm(model.pre_attention_norm, at + "pre_attention_norm", model_.hidden_size);
    stored_.take_norm(model.post_attention_norm, at + "post_attention_norm", model_.hidden_size);
    stored_.take_norm(model.pre_mlp_norm, at + "pre_mlp_norm", model_.hidden_size);
    stored_.take_norm(model.post_mlp_norm, at + "post_mlp_norm", model_.hidden_size);
  }
}

int64_t Decoder::finalize() {
  pack_layers(layers_.size());
  if ((model_.tied_head ? head_ : embedding_).empty()) throw std::invalid_argument("the weight embedding is missing");
  for (int64_t i = 1; i <= model_.more_streams(); ++i) {
    const int64_t hidden = model_.hidden_size;
    streams_out_.push_back(pack_linear({stored_.take("stream_out_" + std::to_string(i), hidden, hidden)}));
  }
  stored_.take_norm(model_.final_norm, "final_norm", model_.hidden_size);
  pack_head();
  const std::string left = stored_.left();
  if (!left.empty()) throw std::invalid_argument("the model has no place for the weight " + left);
  allocate_buffers();
  finalized_ = true;
  return packed_bytes_ + stored_.vector_bytes();
}

void Decoder::pack_head() {
  const int64_t width = model_.embedding_size;
  if (model_.pools()) {
    for (size_t i = 0; i < model_.pooling.dense.size(); ++i) {
      DenseModel& dense = model_.pooling.dense[i];
      const std::string name = "dense_" + std::to_string(i);
      dense_.push_back(pack_linear({stored_.take(name, dense.out_size, dense.in_size)}));
      dense_bias_.push_back(dense.bias ? stored_.take_vector(name + "_bias", dense.out_size) : std::vector<float>());
      stored_.take_norm(dense.norm, name + "_norm", dense.out_size);
    }
    return;
  }
  if (model_.projected()) project_out_ = pack_linear({stored_.take("project_out", width, model_.hidden_size)});
  if (!model_.tied_head) head_ = pack_linear({stored_.take("head", model_.vocab_size, width)});
  if (model_.head_bias) head_bias_ = stored_.take_vector("head_bias", model_.vocab_size);
}

void Decoder::allocate_buffers() {
  const auto& floats = MemoryMap::of_floats;
  const int64_t rows = options_.max_rows, hidden = model_.hidden_size;
  const int64_t most = std::max(rows, options_.max_drawn);
  const int64_t more = model_.more_streams();
  int64_t small = more + 1, around = 0, gate_up = 0;
  int64_t qkv = 0, queries = 0, absorbed = 0, attended = 0, inner = 0, scratch = 2 * hidden, angles = 0;
  for (const DenseModel& dense : model_.pooling.dense) scratch = std::max(scratch, dense.out_size);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerModel& model = model_.layers[i];
    const Layer& layer = layers_[i];
    qkv = std::max(qkv, layer.qkv.n());
    attended = std::max(attended, model.o_size());
    if (model.is_latent()) {
      queries = std::max(queries, layer.q_b.n());
      absorbed = std::max(absorbed, layer.absorbed.q_size());
    }
    const bool dense = layer.experts.empty();
    inner = std::max(inner, dense ? layer.mlp.size() : 0);
    if (dense && layer.mlp.sparse()) gate_up = std::max(gate_up, layer.mlp.gate_up().n());
    small = std::max({small, model.per_layer.size, model.laurel.rank});
    if (model.laurel.rank > 0) around = hidden;
    scratch = std::max(
        {scratch, paged_attention_scratch(over_blocks(i)),
         dense ? layer.mlp.scratch_floats(rows) : layer.experts.scratch_floats(rows, experts_.routes.slots())});
  }
  const int64_t per_layer = static_cast<int64_t>(layers_.size()) * model_.per_layer_size();
  scratch = std::max({scratch, (more + 1) * hidden, per_layer});
  for (const Rotary& r : model_.rotaries) angles += r.dim;
  scratch_floats_ = (scratch + 15) / 16 * 16 + 16;
  x_ = floats(rows * hidden);
  h_ = floats(most * hidden);
  narrow_ = floats(model_.projected() ? most * model_.embedding_size : 0);
  out_ = floats(rows * hidden);
  per_layer_ = floats(rows * per_layer);
  small_ = floats(rows * small);
  streams_ = floats(rows * more * hidden);
  predicted_ = floats(more > 0 ? rows * hidden : 0);
  around_ = floats(rows * around);
  gate_up_ = floats(rows * gate_up);
  qkv_ = floats(rows * qkv);
  queries_ = floats(rows * queries);
  absorbed_ = floats(rows * absorbed);
  attended_ = floats(rows * attended);
  act_ = floats(rows * inner);
  angles_ = floats(rows * angles);
  if (model_.pools()) {
    int64_t widest = hidden;
    for (const DenseModel& dense : model_.pooling.dense) widest = std::max(widest, dense.out_size);
    pooled_ = floats(options_.max_drawn * widest);
    narrow_ = floats(options_.max_drawn * widest);
  } else {
    logits_ = floats(options_.max_drawn * model_.vocab_size);
    prompt_logits_ = floats(kPromptRows * model_.vocab_size);
  }
  scratch_ = floats(scratch_floats_ * team_.size());
  sampling_.resize(static_cast<size_t>(team_.size()));
}

}  // namespace octavo
