"""Llama, and those that share its decoder: Mistral (a window), SmolLM, SmolLM3 (layers without rotary)."""

from __future__ import annotations

from collections.abc import Sequence

from octavo_models.description import Description
from octavo_models.families.sources import GgufSource, HfSource
from octavo_models.names import HF_LLAMA
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec import Attention, Layer, Mlp, Norm

NO_ROPE_INTERVAL = 4  # SmolLM3: each fourth layer has no rotary embedding


def from_hf(source: HfSource) -> Description:
    c, heads = source.config, source.heads()
    bias = c.boolean("attention_bias", False)
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=bias, o_bias=bias)
    return _describe_hf(source, [attention] * source.num_layers(), tied=False)


def mistral_from_hf(source: HfSource) -> Description:
    c, heads = source.config, source.heads()
    # Absent is not null: transformers' default is v0.1's window; later models write null.
    absent = "sliding_window" not in c.values
    window = 4096 if absent else (c.integer("sliding_window") if c.has("sliding_window") else None)
    attention = heads.attention(rotary_from_hf(c, heads.dim), window=window)
    return _describe_hf(source, [attention] * source.num_layers(), tied=False)


def smollm3_from_hf(source: HfSource) -> Description:
    c, heads, count = source.config, source.heads(), source.num_layers()
    bias = c.boolean("attention_bias", False)
    rotary = rotary_from_hf(c, heads.dim, theta=None if c.has("rope_theta") else 2_000_000.0)
    interval = c.integer("no_rope_layer_interval", NO_ROPE_INTERVAL)
    listed = c.sequence("no_rope_layers")
    if listed is not None and (len(listed) < count or any(flag not in (0, 1) for flag in listed)):
        raise c.error("no_rope_layers", f"must hold a 0 (no rotary) or a 1 for each of {count} layers")
    rotates = [bool(flag) for flag in listed[:count]] if listed else [(i + 1) % interval != 0 for i in range(count)]
    slides = c.boolean("use_sliding_window", False) and c.has("sliding_window")
    window = c.integer("sliding_window") if slides else None
    types = source.layer_types(["sliding_attention" if slides and not r else "full_attention" for r in rotates])
    layers = [
        heads.attention(
            rotary if r else None,
            window=window if kind == "sliding_attention" else None,
            qkv_bias=bias,
            o_bias=bias,
        )
        for r, kind in zip(rotates, types, strict=True)
    ]
    return _describe_hf(source, layers, tied=True)


def from_gguf(source: GgufSource) -> Description:
    return _describe_gguf(source, [True] * source.num_layers())


def smollm3_from_gguf(source: GgufSource) -> Description:
    return _describe_gguf(source, [(i + 1) % NO_ROPE_INTERVAL != 0 for i in range(source.num_layers())])


def _describe_hf(source: HfSource, attentions: Sequence[Attention], *, tied: bool) -> Description:
    c = source.config
    norm = Norm(eps=c.number("rms_norm_eps", 1e-6))
    mlp = Mlp(c.integer("intermediate_size"), source.activation(), bias=c.boolean("mlp_bias", False))
    layers = [Layer(attention, mlp, norm, None, norm, None) for attention in attentions]
    return source.description(layers, norm, HF_LLAMA, tied)


def _describe_gguf(source: GgufSource, rotates: Sequence[bool]) -> Description:
    m, heads, norm = source.metadata, source.heads(), source.norm()
    rotary = rotary_from_gguf(m, heads.dim, factors=source.rope_factors)
    if rotary.dim != heads.dim:
        raise m.error("rope.dimension_count", f"is {rotary.dim}; heads of {heads.dim} rotate whole in this family")
    window = m.integer("attention.sliding_window") if m.has("attention.sliding_window") else None
    mlp = Mlp(m.integer("feed_forward_length"), bias=source.has_bias("down"))
    qkv_bias, o_bias = source.has_bias("q"), source.has_bias("o")
    layers = [
        Layer(
            heads.attention(rotary if r else None, window=window, qkv_bias=qkv_bias, o_bias=o_bias),
            mlp,
            norm,
            None,
            norm,
            None,
        )
        for r in rotates
    ]
    return source.description(layers, permuted=True)
