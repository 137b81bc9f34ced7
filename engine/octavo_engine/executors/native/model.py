"""Turns a `ModelSpec` into the native module's description of a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_models.layers import BesideMlp, Experts, Latent, Layer, Mlp, Norm, Rotary, Router
from octavo_models.pooling import Dense, Pooling
from octavo_models.spec import KVLayout, ModelSpec

if TYPE_CHECKING:
    from types import ModuleType

    from octavo_engine.executors.native import _native

ACTIVATIONS = {
    "silu": 0,
    "gelu": 1,
    "gelu_tanh": 2,
    "relu": 3,
    "relu2": 4,
    "quick_gelu": 5,
    "xielu": 6,
    "swiglu_clamped": 7,
}
QK_NORM_SPANS = {"head": 0, "each_head": 1, "width": 2}
SCORINGS = {"softmax": 0, "sigmoid": 1, "softmax_of_chosen": 2, "sparse_mixer": 3}
NORMS = {"rms": 0, "layer": 1}
POOLINGS = {"mean": 1, "cls": 2, "last": 3, "max": 4}
DENSE_ACTIVATIONS = {"none": 0, "tanh": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4, "silu": 5}


def decoder_model(native: ModuleType, spec: ModelSpec, layout: KVLayout) -> _native.DecoderModel:
    """The decoder of `spec`, whose layers keep their blocks as `layout` groups them."""
    model: _native.DecoderModel = native.DecoderModel()
    model.vocab_size = spec.vocab_size
    model.hidden_size = spec.hidden_size
    model.embedding_size = spec.projected_embedding or spec.hidden_size
    if spec.positions is not None:
        model.num_positions = spec.positions.count
        model.position_offset = spec.positions.offset
    model.tied_head = spec.tied_head
    model.head_bias = spec.head_bias
    model.embedding_multiplier = spec.embedding_multiplier
    model.residual_multiplier = spec.residual_multiplier
    model.logits_multiplier = spec.logits_multiplier
    model.logits_soft_cap = spec.logits_soft_cap or 0.0
    model.embedding_norm = _norm(native, spec.embedding_norm)
    model.final_norm = _norm(native, spec.final_norm)
    rotaries = list(dict.fromkeys(r for layer in spec.layers if (r := layer.attention.rotary) is not None))
    model.rotaries = [_rotary(native, r) for r in rotaries]
    group_of = {i: g for g, group in enumerate(layout.groups) for i in group.layers}
    group_of |= {i: group_of[a.kv_from_layer] for i, a in enumerate(spec.attentions) if a.kv_from_layer is not None}
    model.layers = [_layer(native, layer, group_of.get(i, 0), rotaries) for i, layer in enumerate(spec.layers)]
    model.group_windows = [group.window or 0 for group in layout.groups]
    if spec.per_layer_embedding is not None:
        model.per_layer_count = spec.per_layer_embedding.count
        model.per_layer_norm = _norm(native, spec.per_layer_embedding.norm)
    model.num_token_types = spec.token_types
    if spec.pooling is not None:
        model.group_windows = [0]  # of the scratch that takes one layer's keys and values after another
        model.pooling = _pooling(native, spec.pooling)
    return model


def _pooling(native: ModuleType, spec: Pooling) -> _native.PoolingModel:
    pooling: _native.PoolingModel = native.PoolingModel()
    pooling.kind = POOLINGS[spec.kind]
    pooling.dense = [_dense(native, dense) for dense in spec.dense]
    return pooling


def _dense(native: ModuleType, spec: Dense) -> _native.DenseModel:
    dense: _native.DenseModel = native.DenseModel()
    dense.in_size = spec.in_size
    dense.out_size = spec.out_size
    dense.bias = spec.bias
    dense.activation = DENSE_ACTIVATIONS[spec.activation]
    dense.norm = _norm(native, spec.norm)
    return dense


def _norm(native: ModuleType, spec: Norm | None) -> _native.Norm:
    norm: _native.Norm = native.Norm()
    if spec is not None:
        norm.present = True
        norm.weighted = spec.weight
        norm.kind = NORMS[spec.kind]
        norm.eps = spec.eps
        norm.offset = spec.offset
    return norm


def _rotary(native: ModuleType, spec: Rotary) -> _native.Rotary:
    rotary: _native.Rotary = native.Rotary()
    rotary.dim = spec.dim
    rotary.interleaved = spec.interleaved
    rotary.factor = spec.attention_factor()
    rotary.inverse_frequencies = list(spec.inverse_frequencies())
    return rotary


def _layer(native: ModuleType, spec: Layer, kv_group: int, rotaries: list[Rotary]) -> _native.LayerModel:
    attention = spec.attention
    layer: _native.LayerModel = native.LayerModel()
    layer.num_heads = attention.num_heads
    layer.num_kv_heads = attention.num_kv_heads
    layer.head_dim_k = attention.head_dim_k
    layer.head_dim_v = attention.head_dim_v
    layer.scale = attention.scale
    layer.causal = attention.causal
    layer.window = attention.window or 0
    layer.chunk = attention.chunk or 0
    layer.soft_cap = attention.soft_cap or 0.0
    layer.qkv_clip = attention.qkv_clip or 0.0
    layer.alibi_slopes = list(attention.alibi_slopes)
    layer.qk_norm_span = QK_NORM_SPANS[attention.qk_norm_span]
    layer.qk_norm_after_rotary = attention.qk_norm_after_rotary
    if attention.query_scaling is not None:
        scaling = attention.query_scaling
        layer.query_scaling = (scaling.beta, scaling.period, scaling.offset)
    layer.output_gate = attention.output_gate
    layer.sinks = attention.sinks
    layer.rotary = -1 if attention.rotary is None else rotaries.index(attention.rotary)
    layer.kv_group = kv_group
    layer.kv_from = -1 if attention.kv_from_layer is None else attention.kv_from_layer
    if attention.latent is not None:
        layer.latent = _latent(native, attention.latent)
    if isinstance(spec.mlp, Experts):
        layer.router = _router(native, spec.mlp.router, spec.mlp)
        layer.mlp = _mlp(native, spec.mlp.expert)
        if spec.mlp.shared is not None:
            layer.shared = _mlp(native, spec.mlp.shared)
            layer.shared_gate = spec.mlp.shared_gate
        if spec.mlp.beside is not None:
            layer.beside = _beside(native, spec.mlp.beside)
    else:
        layer.mlp = _mlp(native, spec.mlp)
    _add_what_is_beside(native, spec, layer)
    layer.parallel_residual = spec.parallel_residual
    layer.post_norms_sum = spec.post_norms_sum
    layer.pre_attention_norm = _norm(native, spec.pre_attention_norm)
    layer.post_attention_norm = _norm(native, spec.post_attention_norm)
    layer.pre_mlp_norm = _norm(native, spec.pre_mlp_norm)
    layer.post_mlp_norm = _norm(native, spec.post_mlp_norm)
    layer.q_norm = _norm(native, attention.qk_norm)
    layer.k_norm = _norm(native, attention.qk_norm)
    layer.v_norm = _norm(native, attention.v_norm)
    return layer


def _add_what_is_beside(native: ModuleType, spec: Layer, layer: _native.LayerModel) -> None:
    """Add the parts of a layer beside attention and MLP."""
    if spec.laurel is not None:
        layer.laurel.rank, layer.laurel.norm = spec.laurel.rank, _norm(native, spec.laurel.norm)
    if spec.altup is not None:
        layer.altup.num, layer.altup.norm = spec.altup.num, _norm(native, spec.altup.norm)
    if spec.per_layer is not None:
        layer.per_layer.size = spec.per_layer.size
        layer.per_layer.activation = ACTIVATIONS[spec.per_layer.activation]
        layer.per_layer.norm = _norm(native, spec.per_layer.norm)
    layer.scaled = spec.scaled


def _beside(native: ModuleType, spec: BesideMlp) -> _native.BesideModel:
    beside: _native.BesideModel = native.BesideModel()
    beside.router = _norm(native, spec.router)
    beside.before = _norm(native, spec.before)
    beside.after = _norm(native, spec.after)
    beside.after_shared = _norm(native, spec.after_shared)
    return beside


def _latent(native: ModuleType, spec: Latent) -> _native.LatentModel:
    latent: _native.LatentModel = native.LatentModel()
    latent.rank = spec.rank
    latent.rotary_dim = spec.rotary_dim
    latent.q_rank = spec.q_rank or 0
    latent.q_norm = latent.kv_norm = _norm(native, spec.norm)
    return latent


def _mlp(native: ModuleType, spec: Mlp) -> _native.MlpModel:
    mlp: _native.MlpModel = native.MlpModel()
    mlp.intermediate_size = spec.intermediate_size
    mlp.activation = ACTIVATIONS[spec.activation]
    mlp.gated = spec.gated
    if spec.cutoff is not None:
        mlp.sparse, mlp.cutoff = True, spec.cutoff
    return mlp


def _router(native: ModuleType, spec: Router, experts: Experts) -> _native.RouterModel:
    router: _native.RouterModel = native.RouterModel()
    router.num_experts = experts.num_experts
    router.num_chosen = experts.num_experts_per_token
    router.scoring = SCORINGS[spec.scoring]
    router.renormalize = spec.renormalize
    router.bias = spec.bias
    router.correction = spec.correction
    router.num_groups = spec.num_groups
    router.top_groups = spec.top_groups
    router.group_by_top2 = spec.group_by == "top2"
    router.scale = spec.scale
    router.jitter = spec.jitter
    router.weighs_input = spec.weighs_input
    router.logits_multiplier = spec.logits_multiplier
    router.expert_scales = spec.expert_scales
    return router
