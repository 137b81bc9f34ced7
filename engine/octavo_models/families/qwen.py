"""Qwen 2 (biases on q, k and v) and Qwen 3 (a norm over each head of q and k in their place)."""

from __future__ import annotations

from octavo_models.description import Description
from octavo_models.families.sources import GgufSource, HfSource
from octavo_models.names import HF_LLAMA
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec import Layer, Mlp, Norm

QWEN3_HEAD_DIM = 128


def qwen2_from_hf(source: HfSource) -> Description:
    return _describe_hf(source, qk_norm=False)


def qwen3_from_hf(source: HfSource) -> Description:
    return _describe_hf(source, qk_norm=True)


def qwen2_from_gguf(source: GgufSource) -> Description:
    return _describe_gguf(source, qk_norm=False)


def qwen3_from_gguf(source: GgufSource) -> Description:
    return _describe_gguf(source, qk_norm=True)


def _describe_hf(source: HfSource, *, qk_norm: bool) -> Description:
    c, heads, count = source.config, source.heads(QWEN3_HEAD_DIM if qk_norm else None), source.num_layers()
    norm = Norm(eps=c.number("rms_norm_eps", 1e-6))
    bias = c.boolean("attention_bias", False)
    # Without use_sliding_window the window in the config means nothing; with it, the first layers still see all.
    slides = c.boolean("use_sliding_window", False) and c.raw("sliding_window") is not None
    window = c.integer("sliding_window") if slides else None
    first = c.integer("max_window_layers", 28, minimum=0)
    types = source.layer_types(
        ["sliding_attention" if slides and i >= first else "full_attention" for i in range(count)]
    )
    rotary = rotary_from_hf(c, heads.dim)
    mlp = Mlp(c.integer("intermediate_size"), source.activation())
    layers = [
        Layer(
            heads.attention(
                rotary,
                window=window if kind == "sliding_attention" else None,
                qk_norm=norm if qk_norm else None,
                qkv_bias=bias if qk_norm else True,
                o_bias=bias if qk_norm else False,
            ),
            mlp,
            norm,
            None,
            norm,
            None,
        )
        for kind in types
    ]
    return source.description(layers, norm, HF_LLAMA, tied=False)


def _describe_gguf(source: GgufSource, *, qk_norm: bool) -> Description:
    m, heads, norm = source.metadata, source.heads(), source.norm()
    attention = heads.attention(
        rotary_from_gguf(m, heads.dim, factors=source.rope_factors),
        qk_norm=norm if qk_norm else None,
        qkv_bias=source.has_bias("q"),
        o_bias=source.has_bias("o"),
    )
    layer = Layer(attention, Mlp(m.integer("feed_forward_length")), norm, None, norm, None)
    return source.description([layer] * source.num_layers())
