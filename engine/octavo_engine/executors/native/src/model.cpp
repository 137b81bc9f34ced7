#include "model.h"

#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

namespace octavo {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what + " can't be run"); }

void check(const Norm& norm) {
  if (norm.kind != NormKind::Rms && norm.kind != NormKind::Layer) {
    refuse("a norm of kind " + std::to_string(static_cast<int32_t>(norm.kind)));
  }
}

void check(const Rotary& rotary) {
  if (rotary.dim < 0 || rotary.dim % 2 != 0 ||
      rotary.inverse_frequencies.size() * 2 != static_cast<size_t>(rotary.dim)) {
    refuse("rotary over " + std::to_string(rotary.dim) + " elements with " +
           std::to_string(rotary.inverse_frequencies.size()) + " frequencies");
  }
}

void check(const MlpModel& mlp) {
  const auto activation = static_cast<int32_t>(mlp.activation);
  if (activation < 0 || activation > static_cast<int32_t>(Activation::SwigluClamped)) {
    refuse("an activation of kind " + std::to_string(activation));
  }
  if (mlp.sparse && !mlp.gated) refuse("a sparse activation without a gate");
  if (mlp.activation == Activation::SwigluClamped && !mlp.gated) refuse("a clamped swiglu without a gate");
  if (mlp.intermediate_size <= 0) refuse("an MLP of " + std::to_string(mlp.intermediate_size));
}

void check(const RouterModel& router, const LayerModel& layer) {
  const auto scoring = static_cast<int32_t>(router.scoring);
  if (scoring < 0 || scoring > static_cast<int32_t>(Scoring::SparseMixer)) {
    refuse("a router's scoring of kind " + std::to_string(scoring));
  }
  if (router.num_groups <= 0 || router.num_experts % router.num_groups != 0 || router.top_groups <= 0 ||
      router.top_groups > router.num_groups || router.num_chosen <= 0 ||
      router.num_chosen > router.num_experts / router.num_groups * router.top_groups) {
    refuse(std::to_string(router.num_chosen) + " of " + std::to_string(router.num_experts) + " experts, from " +
           std::to_string(router.top_groups) + " of " + std::to_string(router.num_groups) + " groups");
  }
  if (layer.shared.intermediate_size != 0) check(layer.shared);
  for (const MlpModel* mlp : {&layer.mlp, &layer.shared}) {
    if (mlp->activation == Activation::Xielu || mlp->sparse) refuse("an expert with xielu, or sparse");
  }
  if (layer.beside.present() && (layer.shared.intermediate_size == 0 || layer.shared_gate)) {
    refuse("a mixture beside no MLP, or one with a gate");
  }
}

void check(const LatentModel& latent, const LayerModel& layer) {
  if (latent.rank % 2 != 0 || latent.rotary_dim <= 0 || latent.rotary_dim % 2 != 0 || latent.q_rank < 0 ||
      latent.rotary_dim >= layer.head_dim_k || layer.num_kv_heads != 1 || layer.q_norm.present ||
      layer.qkv_clip > 0.0F || layer.output_gate) {
    refuse("a latent of " + std::to_string(latent.rank) + " with a key of " + std::to_string(latent.rotary_dim) +
           " for heads of " + std::to_string(layer.head_dim_k));
  }
  check(latent.q_norm);
  check(latent.kv_norm);
}

void check(const LayerModel& layer, const DecoderModel& model) {
  const std::string heads = std::to_string(layer.num_heads) + " heads of " + std::to_string(layer.head_dim_k) +
                            " and " + std::to_string(layer.head_dim_v) + " over " + std::to_string(layer.num_kv_heads) +
                            " KV heads";
  if (layer.num_heads <= 0 || layer.num_kv_heads <= 0 || layer.num_heads % layer.num_kv_heads != 0 ||
      layer.head_dim_k <= 0 || layer.head_dim_k % 2 != 0 || layer.head_dim_v <= 0) {
    refuse(heads);
  }
  const auto group = static_cast<size_t>(layer.kv_group);
  if (group >= model.group_windows.size()) throw std::invalid_argument("a layer's KV group is missing");
  const int32_t kept = model.group_windows[group];  // blocks before it may be gone
  if (layer.window < 0 || (kept > 0 && (layer.window == 0 || layer.window > kept))) {
    refuse("a layer with a window of " + std::to_string(layer.window) + " in a KV group with one of " +
           std::to_string(kept));
  }
  if (layer.chunk < 0 || layer.query_scaling.period < 0) {
    refuse("attention in chunks of " + std::to_string(layer.chunk) + " with query scaling each " +
           std::to_string(layer.query_scaling.period));
  }
  if (!layer.alibi_slopes.empty() && layer.alibi_slopes.size() != static_cast<size_t>(layer.num_heads)) {
    refuse(std::to_string(layer.alibi_slopes.size()) + " slopes of " + heads);
  }
  if (layer.rotary >= 0) {
    const auto rotary = static_cast<size_t>(layer.rotary);
    if (rotary >= model.rotaries.size()) throw std::invalid_argument("a layer's rotary is missing");
    const int32_t dim = model.rotaries[rotary].dim;
    if (dim > layer.head_dim_k) refuse("rotary over " + std::to_string(dim) + " elements of " + heads);
  }
  if (layer.is_latent()) check(layer.latent, layer);
  check(layer.mlp);
  if (layer.router.num_experts > 0) check(layer.router, layer);
  for (const Norm* norm : {&layer.pre_attention_norm, &layer.post_attention_norm, &layer.pre_mlp_norm,
                           &layer.post_mlp_norm, &layer.q_norm, &layer.k_norm, &layer.v_norm}) {
    check(*norm);
  }
}

// What is beside a layer's halves is alike in all layers.
void check_beside(const LayerModel& layer, const DecoderModel& model) {
  const LayerModel& first = model.layers[0];
  if (layer.altup.num != first.altup.num || layer.altup.num < 0 || (layer.altup.num > 0 && layer.per_layer.size == 0) ||
      layer.per_layer.size != first.per_layer.size || (layer.per_layer.size > 0) != (model.per_layer_count > 0) ||
      layer.laurel.rank < 0) {
    refuse(std::to_string(layer.altup.num) + " residual streams with inputs of " +
           std::to_string(layer.per_layer.size) + " in one layer and other ones in the first");
  }
  const bool any = layer.altup.num > 0 || layer.per_layer.size > 0 || layer.laurel.rank > 0 || layer.scaled;
  if (any && (model.pools() || layer.parallel_residual || layer.post_norms_sum)) {
    refuse("a layer with inputs, streams or a factor of its own whose halves are parallel, or that pools");
  }
  for (const Norm* norm : {&layer.altup.norm, &layer.per_layer.norm, &layer.laurel.norm, &layer.beside.router,
                           &layer.beside.before, &layer.beside.after, &layer.beside.after_shared}) {
    check(*norm);
  }
}

// A layer that reads what another has written, in the step too.
void check_shared(const LayerModel& layer, size_t index, const DecoderModel& model) {
  const auto from = static_cast<size_t>(layer.kv_from);
  if (from < index && !model.pools()) {
    const LayerModel& source = model.layers[from];
    if (source.kv_from < 0 && !layer.is_latent() && !source.is_latent() && layer.num_kv_heads == source.num_kv_heads &&
        layer.head_dim_k == source.head_dim_k && layer.head_dim_v == source.head_dim_v &&
        layer.kv_group == source.kv_group && !(layer.q_norm.present && layer.qk_norm_span == QkNormSpan::Width)) {
      return;
    }
  }
  refuse("keys and values of layer " + std::to_string(from) + " in layer " + std::to_string(index));
}

void check(const PoolingModel& pooling, int64_t hidden) {
  const auto kind = static_cast<int32_t>(pooling.kind);
  if (kind < 0 || kind > static_cast<int32_t>(PoolingKind::Max)) refuse("pooling of kind " + std::to_string(kind));
  int64_t width = hidden;
  for (const DenseModel& dense : pooling.dense) {
    const auto activation = static_cast<int32_t>(dense.activation);
    if (dense.in_size != width || dense.out_size <= 0 || activation < 0 ||
        activation > static_cast<int32_t>(DenseActivation::Silu)) {
      refuse("a dense layer of " + std::to_string(dense.in_size) + " to " + std::to_string(dense.out_size) +
             " with an activation of kind " + std::to_string(activation) + ", after " + std::to_string(width));
    }
    check(dense.norm);
    width = dense.out_size;
  }
}

}  // namespace

DecoderModel checked(DecoderModel model) {
  if (model.vocab_size <= 0 || model.hidden_size <= 0) {
    refuse("a model of " + std::to_string(model.hidden_size) + " with " + std::to_string(model.vocab_size) + " tokens");
  }
  if (model.layers.empty()) refuse("a model without layers");
  check(model.per_layer_norm);
  if (model.embedding_size <= 0 || model.num_positions < 0 || model.position_offset < 0) {
    refuse("an embedding of " + std::to_string(model.embedding_size) + " with " + std::to_string(model.num_positions) +
           " positions from row " + std::to_string(model.position_offset));
  }
  check(model.embedding_norm);
  check(model.final_norm);
  for (const Rotary& rotary : model.rotaries) check(rotary);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const LayerModel& layer = model.layers[i];
    check(layer, model);
    if (layer.kv_from >= 0) check_shared(layer, i, model);
    check_beside(layer, model);
    if (!layer.causal && (!model.pools() || layer.chunk > 0))
      refuse("a head or chunks with attention in both directions");
  }
  check(model.pooling, model.hidden_size);
  if (model.pools() && (model.projected() || model.group_windows.size() != 1 || model.group_windows[0] != 0)) {
    refuse("pooling with a projected embedding or " + std::to_string(model.group_windows.size()) + " KV groups");
  }
  if (model.num_token_types < 0) refuse("a table of " + std::to_string(model.num_token_types) + " segments");
  return model;
}

LayerModel LayerModel::absorbed() const {
  LayerModel model = *this;
  model.num_kv_heads = 1;
  model.head_dim_k = static_cast<int32_t>(latent.width());
  model.head_dim_v = latent.rank;
  model.values_from = latent.rotary_dim;
  return model;
}

float QueryScaling::at(int32_t position) const {
  const int64_t passed = (int64_t{position} + offset) / period;
  return 1.0F + beta * std::log(1.0F + static_cast<float>(passed));
}

void fill_angles(const Rotary& rotary, int32_t position, float* cos, float* sin) {
  for (size_t i = 0; i < rotary.inverse_frequencies.size(); ++i) {
    // The angle is rounded to a float, as checkpoints' own code has it.
    const float angle = static_cast<float>(position) * rotary.inverse_frequencies[i];
    cos[i] = std::cos(angle) * rotary.factor;
    sin[i] = std::sin(angle) * rotary.factor;
  }
}

}  // namespace octavo
