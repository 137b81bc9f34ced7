"""Turns a `ModelSpec` into the native module's description of a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_models.layers import Experts, Layer, Norm, Rotary
from octavo_models.spec import KVLayout, ModelSpec

if TYPE_CHECKING:
    from types import ModuleType

    from octavo_engine.executors.native import _native

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "relu2": 4}
NORMS = {"rms": 0, "layer": 1}


def describe(native: ModuleType, spec: ModelSpec, layout: KVLayout) -> _native.DecoderModel:
    """The decoder of `spec`, whose layers keep their blocks as `layout` groups them."""
    model: _native.DecoderModel = native.DecoderModel()
    model.vocab_size = spec.vocab_size
    model.hidden_size = spec.hidden_size
    model.tied_head = spec.tied_head
    model.embedding_multiplier = spec.embedding_multiplier
    model.residual_multiplier = spec.residual_multiplier
    model.logits_multiplier = spec.logits_multiplier
    model.logits_soft_cap = spec.logits_soft_cap or 0.0
    model.final_norm = _norm(native, spec.final_norm)
    rotaries = list(dict.fromkeys(r for layer in spec.layers if (r := layer.attention.rotary) is not None))
    model.rotaries = [_rotary(native, r) for r in rotaries]
    group_of = {i: g for g, group in enumerate(layout.groups) for i in group.layers}
    model.layers = [_layer(native, layer, group_of[i], rotaries) for i, layer in enumerate(spec.layers)]
    model.group_windows = [group.window or 0 for group in layout.groups]
    return model


def _norm(native: ModuleType, spec: Norm | None) -> _native.Norm:
    norm: _native.Norm = native.Norm()
    if spec is not None:
        norm.present = True
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
    assert not isinstance(spec.mlp, Experts)
    attention = spec.attention
    layer: _native.LayerModel = native.LayerModel()
    layer.num_heads = attention.num_heads
    layer.num_kv_heads = attention.num_kv_heads
    layer.head_dim_k = attention.head_dim_k
    layer.head_dim_v = attention.head_dim_v
    layer.scale = attention.scale
    layer.window = attention.window or 0
    layer.soft_cap = attention.soft_cap or 0.0
    layer.rotary = -1 if attention.rotary is None else rotaries.index(attention.rotary)
    layer.kv_group = kv_group
    layer.intermediate_size = spec.mlp.intermediate_size
    layer.activation = ACTIVATIONS[spec.mlp.activation]
    layer.gated = spec.mlp.gated
    layer.parallel_residual = spec.parallel_residual
    layer.pre_attention_norm = _norm(native, spec.pre_attention_norm)
    layer.post_attention_norm = _norm(native, spec.post_attention_norm)
    layer.pre_mlp_norm = _norm(native, spec.pre_mlp_norm)
    layer.post_mlp_norm = _norm(native, spec.post_mlp_norm)
    layer.q_norm = _norm(native, attention.qk_norm)
    layer.k_norm = _norm(native, attention.qk_norm)
    return layer
