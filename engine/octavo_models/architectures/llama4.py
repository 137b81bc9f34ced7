"""Llama 4's text half: attention in chunks, but for some layers without rotary embedding, whose queries grow instead.

Experts see inputs that their router's sigmoid has multiplied; a shared expert sees all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama, smollm3
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Experts, Mlp, QueryScaling, Router
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, at

HEAD_DIM = 128
THETA = 500_000.0
CHUNK = 8192
EPS = 1e-5


def from_hf(source: HfConfig) -> SpecDraft:
    c, activation = source.fields, source.activation()
    width = c.integer("intermediate_size")
    router = Router("sigmoid", renormalize=False, weighs_input=True)
    expert, dense = Mlp(width, activation), Mlp(c.integer("intermediate_size_mlp", width), activation)
    experts = mixtures.experts_from_hf(source, expert, router, shared=expert)
    return llama.draft_from_hf(
        source,
        _attentions(source),
        mlps=mixtures.mlps(source, dense, experts, _is_sparse(source)),
        norm=llama.rms_norm(source, EPS),
        tensors=HF_LLAMA.updated(_names(experts)),
    )


def _attentions(source: HfConfig) -> list[Attention]:
    c, heads, rotates = source.fields, source.heads(HEAD_DIM), smollm3.rotates_from_hf(source)
    bias = c.boolean("attention_bias", False)
    norm = replace(llama.rms_norm(source, EPS), weight=False) if c.boolean("use_qk_norm", True) else None
    rotary = replace(rotary_from_hf(c, heads.dim, default_theta=THETA), interleaved=True)
    rotating = heads.attention(rotary, qk_norm=norm, qk_norm_after_rotary=norm is not None, qkv_bias=bias, o_bias=bias)
    tuned = c.raw("attn_temperature_tuning") is not False and c.raw("attn_temperature_tuning") != 0
    scaling = QueryScaling(c.number("attn_scale", 0.1), c.integer("floor_scale", 8192), offset=1) if tuned else None
    plain = heads.attention(None, query_scaling=scaling, qkv_bias=bias, o_bias=bias)
    # Absent is not null, which means no chunks.
    chunk = c.integer("attention_chunk_size") if c.has("attention_chunk_size") else None
    chunk = CHUNK if "attention_chunk_size" not in c.values else chunk
    chunked = source.local_layers([r and chunk is not None for r in rotates], "chunked")
    return [
        replace(rotating if r else plain, chunk=chunk if local else None)
        for r, local in zip(rotates, chunked, strict=True)
    ]


def _is_sparse(source: HfConfig) -> Callable[[int], bool]:
    c = source.fields
    listed, step = c.sequence("moe_layers"), c.integer("interleave_moe_layer_step", 1)
    if listed is None:
        return lambda layer: (layer + 1) % step == 0
    return lambda layer: layer in listed


def _names(experts: Experts) -> dict[LayerWeight, At]:
    return {
        "gate": at("feed_forward.gate_proj"),
        "up": at("feed_forward.up_proj"),
        "down": at("feed_forward.down_proj"),
        "router": at("feed_forward.router"),
        **mixtures.stacked_parameters("feed_forward.experts", experts),
        **mixtures.shared_modules("feed_forward.shared_expert"),
    }


LLAMA4 = Architecture(("Llama4ForCausalLM",), from_hf)
