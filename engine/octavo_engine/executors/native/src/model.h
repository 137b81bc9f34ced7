// A decoder as the native executor runs it: filled from a ModelSpec by executor.py, then weight by weight.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "matmul.h"
#include "operations/operations.h"

namespace octavo {

// The element `at` of v on, or null where it is empty.
inline const float* or_null(const std::vector<float>& v, int64_t at = 0) { return v.empty() ? nullptr : v.data() + at; }

// `x / rms(x) * (weight + offset) + bias`, or LayerNorm; without `weighted` it normalizes alone.
struct Norm {
  bool present = false;
  bool weighted = true;
  NormKind kind = NormKind::Rms;
  float eps = 1e-6F;
  float offset = 0.0F;
  std::vector<float> weight, bias;

  NormView view() const { return {present, or_null(weight), or_null(bias), eps, offset, kind}; }
};

struct Rotary {
  int32_t dim = 0;  // 0: none
  bool interleaved = false;
  float factor = 1.0F;                     // on cos and sin
  std::vector<float> inverse_frequencies;  // [dim / 2]
};

// cos and sin of one position, [dim / 2] each.
void fill_angles(const Rotary& rotary, int32_t position, float* cos, float* sin);

// What the norms of queries and keys normalize: each head with one weight, each head with a weight of its own, or all
// heads together.
enum class QkNormSpan : int32_t { Head = 0, EachHead = 1, Width = 2 };

// A factor on the query at position p: 1 + beta * log(1 + floor((p + offset) / period)); none where period is 0.
struct QueryScaling {
  float beta = 0.0F;
  int32_t period = 0;
  int32_t offset = 0;

  float at(int32_t position) const;
};

// `down(act(gate(x)) * up(x))`, or `down(act(up(x)))` where not gated.
struct MlpModel {
  int64_t intermediate_size = 0;
  Activation activation = Activation::Silu;
  bool gated = true;
  bool sparse = false;  // the gate becomes relu(gate - mean - cutoff * deviation) first, both of a row's
  float cutoff = 0.0F;
};

enum class Scoring : int32_t { Softmax = 0, Sigmoid = 1, SoftmaxOfChosen = 2, SparseMixer = 3 };

// Which experts a row goes to, and with what weight: see octavo_models.layers.Router.
struct RouterModel {
  int32_t num_experts = 0;  // 0: the layer has an MLP alone
  int32_t num_chosen = 0;
  Scoring scoring = Scoring::Softmax;
  bool renormalize = true;
  bool bias = false;
  bool correction = false;
  int32_t num_groups = 1, top_groups = 1;
  bool group_by_top2 = true;  // a group's worth is the sum of its two largest, or the largest
  float scale = 1.0F;
  float jitter = 0.0F;
  bool weighs_input = false;
  float logits_multiplier = 1.0F;
  bool expert_scales = false;  // a learned factor on each expert's weight
};

// Norms of a mixture beside an MLP, its shared expert: see octavo_models.layers.BesideMlp. None where `router` is
// absent.
struct BesideModel {
  Norm router, before, after, after_shared;

  bool present() const { return router.present; }
};

// A token's own input of a layer: see octavo_models.layers.PerLayerInput. Of no size: none.
struct PerLayerModel {
  int64_t size = 0;
  Activation activation = Activation::Gelu;
  Norm norm;
};

// Residual streams, of which a layer computes the first: see octavo_models.layers.AltUp. 0: one stream alone.
struct AltUpModel {
  int64_t num = 0;
  Norm norm;
};

// Around attention: see octavo_models.layers.Laurel. Of no rank: none.
struct LaurelModel {
  int64_t rank = 0;
  Norm norm;
};

// Multi-head latent attention: see octavo_models.layers.Latent.
struct LatentModel {
  int32_t rank = 0;  // 0: none
  int32_t rotary_dim = 0;
  int32_t q_rank = 0;  // 0: queries are a product of the layer's input
  Norm q_norm, kv_norm;

  int64_t width() const { return int64_t{rank} + rotary_dim; }
};

struct LayerModel {
  int32_t num_heads = 0, num_kv_heads = 0, head_dim_k = 0, head_dim_v = 0;
  float scale = 1.0F;
  bool causal = true;               // false: a position sees keys behind it too, within the window's distance
  int32_t window = 0;               // 0: none
  int32_t chunk = 0;                // 0: none
  float soft_cap = 0.0F;            // 0: none
  float qkv_clip = 0.0F;            // 0: none
  std::vector<float> alibi_slopes;  // of each head, or none
  QkNormSpan qk_norm_span = QkNormSpan::Head;
  bool qk_norm_after_rotary = false;
  QueryScaling query_scaling;
  bool output_gate = false;
  bool sinks = false;
  int32_t rotary = -1;  // index into DecoderModel::rotaries; -1: none
  int32_t kv_group = 0;
  int32_t kv_from = -1;      // the layer whose keys and values it reads; -1: it has its own
  int32_t values_from = -1;  // a token's values are the elements of its key from here on; -1: they are its own
  LatentModel latent;
  RouterModel router;
  MlpModel mlp;     // with a router, of each expert
  MlpModel shared;  // of no size: none
  bool shared_gate = false;
  BesideModel beside;
  LaurelModel laurel;
  AltUpModel altup;
  PerLayerModel per_layer;
  bool scaled = false;  // the residual stream is multiplied by a learned number at the end
  bool parallel_residual = false;
  bool post_norms_sum = false;
  Norm pre_attention_norm, post_attention_norm, pre_mlp_norm, post_mlp_norm, q_norm, k_norm, v_norm;

  int64_t q_size() const { return int64_t{num_heads} * head_dim_k; }
  // What it computes of its own.
  int64_t k_size() const { return kv_from < 0 ? int64_t{num_kv_heads} * head_dim_k : 0; }
  int64_t v_size() const { return kv_from < 0 && values_from < 0 ? int64_t{num_kv_heads} * head_dim_v : 0; }
  int64_t o_size() const { return int64_t{num_heads} * head_dim_v; }
  int64_t gate_size() const { return output_gate ? o_size() : 0; }
  bool is_latent() const { return latent.rank > 0; }
  // Of latent attention, what reads the blocks: queries and the one key a token are [turned part, latent].
  LayerModel absorbed() const;
};

// One vector of a prompt's rows: none, where the model has a head.
enum class PoolingKind : int32_t { None = 0, Mean = 1, Cls = 2, Last = 3, Max = 4 };
enum class DenseActivation : int32_t { None = 0, Tanh = 1, Gelu = 2, GeluTanh = 3, Relu = 4, Silu = 5 };

// norm(act(weight · x + bias)) of a pooled vector.
struct DenseModel {
  int64_t in_size = 0, out_size = 0;
  bool bias = false;
  DenseActivation activation = DenseActivation::None;
  Norm norm;
};

struct PoolingModel {
  PoolingKind kind = PoolingKind::None;
  std::vector<DenseModel> dense;
};

struct DecoderModel {
  int64_t vocab_size = 0, hidden_size = 0;
  int64_t embedding_size = 0;  // width of embedding and head; other than hidden_size, projections lead there and back
  int64_t num_positions = 0;   // rows of the table of learned positions; 0: none
  int32_t position_offset = 0;
  int64_t num_token_types = 0;  // rows of the table of segments; 0: none
  bool tied_head = false;
  bool head_bias = false;
  float embedding_multiplier = 1.0F, residual_multiplier = 1.0F, logits_multiplier = 1.0F;
  float logits_soft_cap = 0.0F;
  Norm embedding_norm, final_norm;
  std::vector<Rotary> rotaries;
  std::vector<LayerModel> layers;
  std::vector<int32_t> group_windows;  // of each KV group; 0: none
  PoolingModel pooling;
  int64_t per_layer_count = 0;  // tokens of the embedding of all layers' own inputs; 0: none
  Norm per_layer_norm;

  int64_t per_layer_size() const { return per_layer_count > 0 ? layers[0].per_layer.size : 0; }
  // Residual streams beside the one that layers compute.
  int64_t more_streams() const { return layers[0].altup.num > 0 ? layers[0].altup.num - 1 : 0; }
  // A model that pools computes each prompt whole, in one step: its keys and values lie in one layer's scratch.
  bool pools() const { return pooling.kind != PoolingKind::None; }
  int64_t pooled_size() const { return pooling.dense.empty() ? hidden_size : pooling.dense.back().out_size; }
  bool projected() const { return embedding_size != hidden_size; }
};

// The model itself, whose sizes, indices and kinds fit together. Throws std::invalid_argument naming what does not.
DecoderModel checked(DecoderModel model);

}  // namespace octavo
