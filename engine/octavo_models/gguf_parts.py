"""Parts of a layer as most architectures read them from GGUF metadata; keys and their meaning are llama.cpp's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from octavo_models import mixtures
from octavo_models.errors import UnsupportedModelError
from octavo_models.fields import Fields
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.layers import Activation, Attention, Experts, Layer, Mlp, Router
from octavo_models.rotary import rotary_from_gguf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import LayerWeight, TensorMap, at

SCORING = {1: "softmax", 2: "sigmoid", 3: "softmax_of_chosen"}  # expert_gating_func


def attention(
    source: GgufMetadata, tensors: TensorMap = GGUF_TENSORS, *, interleaved: bool = False, **details: Any
) -> Attention:
    """Attention in every layer alike, with the biases that the file has; `details` are fields of `Attention`."""
    heads = source.heads()
    rotary = replace(rotary_from_gguf(source.fields, heads.dim, factors=source.rope_factors), interleaved=interleaved)
    biases = {"qkv_bias": source.has_bias("q", tensors), "o_bias": source.has_bias("o", tensors)}
    return heads.attention(rotary, **(biases | details))


def window(source: GgufMetadata) -> int | None:
    """The sliding window; None where the file has none, or says 0."""
    return source.fields.integer("attention.sliding_window", 0, minimum=0) or None


def local_layers(source: GgufMetadata, pattern: int) -> list[bool]:
    """True for each layer that has the window. The file lists them, or says that each n-th layer has none.

    `pattern` is n where the file is silent.
    """
    m, name, count = source.fields, "attention.sliding_window_pattern", source.num_layers()
    if not isinstance(m.raw(name), Sequence):
        pattern = m.integer(name, pattern)
        return [(i + 1) % pattern != 0 for i in range(count)]
    listed = m.sequence(name, count) or ()
    if any(flag not in (0, 1) for flag in listed):
        raise m.error(name, f"must hold true or false for each of {count} layers")
    return [bool(flag) for flag in listed]


def each_layer(source: GgufMetadata, name: str) -> list[int]:
    """A number of each layer; of a file with one number, that of all."""
    m, count = source.fields, source.num_layers()
    if not isinstance(m.raw(name), Sequence):
        return [m.integer(name)] * count
    return [Fields({name: value}).integer(name) for value in m.sequence(name, count) or ()]


def mlp(source: GgufMetadata, activation: Activation = "silu", *, gated: bool = True) -> Mlp:
    bias = source.has_bias("down", GGUF_TENSORS)
    return Mlp(source.fields.integer("feed_forward_length"), activation, gated=gated, bias=bias)


def experts(source: GgufMetadata, *, renormalize: bool, scoring: int = 1, shared_gate: bool = False) -> Experts:
    """A mixture; what the file does not say of its router is `renormalize` and `scoring`, a key of SCORING."""
    m = source.fields
    num = m.integer("expert_count", maximum=mixtures.MOST_EXPERTS)
    kind = m.integer("expert_gating_func", scoring, minimum=0) or scoring
    if kind not in SCORING:
        raise UnsupportedModelError(
            f"{m.prefix}expert_gating_func is {kind}; supported are {', '.join(map(str, SCORING))}"
        )
    groups = m.integer("expert_group_count", 1, maximum=num)
    if num % groups:
        raise m.error("expert_group_count", f"is {groups}, which does not divide expert_count, {num}")
    router = Router(
        SCORING[kind],  # type: ignore[arg-type]
        renormalize=m.boolean("expert_weights_norm", renormalize),
        correction=any(name.endswith(".exp_probs_b.bias") for name in source.tensors),
        num_groups=groups,
        top_groups=m.integer("expert_group_used_count", 1, maximum=groups),
        scale=m.number("expert_weights_scale", 1.0, exclusive=False) or 1.0,
    )
    width = m.integer("expert_feed_forward_length", m.integer("feed_forward_length", 0, minimum=0) or None)
    count = m.integer("expert_shared_count", 0, minimum=0, maximum=mixtures.MOST_EXPERTS)
    shared = m.integer("expert_shared_feed_forward_length", count * width, minimum=0)
    per_token = m.integer("expert_used_count", maximum=num)
    return Experts(num, per_token, Mlp(width), router, Mlp(shared) if shared else None, shared_gate)


def mlps(source: GgufMetadata, mixture: Experts, count: int) -> list[Mlp | Experts]:
    """The mixture in all of `count` layers but the first dense ones, and those between steps."""
    m = source.fields
    first = m.integer("leading_dense_block_count", 0, minimum=0)
    step = m.integer("interleave_moe_layer_step", 1)
    sparse = [i >= first and (i + 1) % step == 0 for i in range(count)]
    dense = mixture.expert if all(sparse) else mlp(source)
    return [mixture if each else dense for each in sparse]


def expert_tensors(source: GgufMetadata, mixture: Experts, tensors: TensorMap = GGUF_TENSORS) -> TensorMap:
    """`tensors` with gate and up of all experts in one tensor, if the file has that."""
    if not any(name.endswith(".ffn_gate_up_exps.weight") for name in source.tensors):
        return tensors
    return tensors.updated(mixtures.stacked_gate_up("ffn_gate_up_exps", mixture))


def draft(
    source: GgufMetadata,
    attentions: Sequence[Attention],
    mlps: Sequence[Mlp | Experts],
    tensors: TensorMap = GGUF_TENSORS,
    *,
    before: bool = True,
    after: bool = False,
) -> SpecDraft:
    """A decoder with norms `before` both halves of a layer, or `after` them, or both."""
    norm = source.norm()
    pre, post = norm if before else None, norm if after else None
    layers = [Layer(attention, mlp, pre, post, pre, post) for attention, mlp in zip(attentions, mlps, strict=True)]
    return source.draft(layers, tensors)


def renamed(name: LayerWeight, module: str, tensors: TensorMap = GGUF_TENSORS) -> TensorMap:
    """`tensors` with another module for one weight."""
    return tensors.updated({name: at(module)})
