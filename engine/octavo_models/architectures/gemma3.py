"""Gemma 3: five layers with a window to each without, a rotary base for either kind, norms before and after both halves.

Its checkpoints on Hugging Face store a norm's weight minus 1; those in GGUF store the weight itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import gemma
from octavo_models.architectures.gemma2 import HF_GEMMA2, soft_cap
from octavo_models.architectures.qwen3 import QK_NORMS
from octavo_models.fields import Fields
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.heads import Heads
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm, Rotary
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft

HF_GEMMA3 = HF_GEMMA2.updated(QK_NORMS)

GLOBAL_THETA = 1_000_000.0
LOCAL_THETA = 10_000.0
PATTERN = 6  # each sixth layer has no window
LAYERS_OF_27B = 62  # GGUF does not store query_pre_attn_scalar: llama.cpp recognizes the 27B by its layers

# What transformers' Gemma3TextConfig assumes where the published configs are silent (4B and larger).
DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
}


def from_hf(source: HfConfig) -> SpecDraft:
    source = replace(source, fields=Fields({**DEFAULTS, **source.fields.values}))
    c, heads, count = source.fields, source.heads(), source.num_layers()
    norm = Norm(eps=c.number("rms_norm_eps", 1e-6), offset=1.0)
    pattern = c.integer("sliding_window_pattern", PATTERN)
    local_layers = source.local_layers([(i + 1) % pattern != 0 for i in range(count)])
    local = rotary_from_hf(
        c,
        heads.dim,
        layer_type="sliding_attention",
        theta=c.number("rope_local_base_freq", LOCAL_THETA),
        scaled=False,
    )
    rotary = rotary_from_hf(c, heads.dim, layer_type="full_attention", theta=c.number("rope_theta", GLOBAL_THETA))
    causal = not c.boolean("use_bidirectional_attention", False)
    window = c.integer("sliding_window", 4096)
    layers = _layers(
        heads,
        local_layers=local_layers,
        window=window if causal else window // 2 + 1,  # half of it on each side
        rotary=rotary,
        local=local,
        scale=c.number("query_pre_attn_scalar", 256.0) ** -0.5,
        soft_cap=soft_cap(c, "attn_logit_softcapping"),
        mlp=Mlp(c.integer("intermediate_size"), source.activation("hidden_activation", "gelu_pytorch_tanh")),
        norm=norm,
        bias=c.boolean("attention_bias", False),
        causal=causal,
    )
    draft = source.draft(layers, norm, HF_GEMMA3, tied_head=True)
    return replace(
        gemma.scaled(draft, source),
        logits_soft_cap=soft_cap(c, "final_logit_softcapping"),
        max_position=c.integer("max_position_embeddings"),  # a lengthened one already
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm, count = source.fields, source.heads(), source.norm(), source.num_layers()
    hidden = m.integer("embedding_length")
    layers = _layers(
        heads,
        local_layers=gguf_parts.local_layers(source, PATTERN),
        window=m.integer("attention.sliding_window"),
        rotary=rotary_from_gguf(
            m, heads.dim, theta=m.number("rope.freq_base", GLOBAL_THETA), factors=source.rope_factors
        ),
        local=rotary_from_gguf(m, heads.dim, theta=m.number("rope.freq_base_swa", LOCAL_THETA), scaled=False),
        scale=(hidden / heads.num if count == LAYERS_OF_27B else heads.dim) ** -0.5,
        soft_cap=None,
        mlp=Mlp(m.integer("feed_forward_length"), "gelu_tanh"),
        norm=norm,
        bias=False,
    )
    return replace(
        gemma.scaled_from_gguf(source.draft(layers, GGUF_TENSORS)),
        max_position=m.integer("context_length"),
    )


def _layers(
    heads: Heads,
    *,
    local_layers: Sequence[bool],
    window: int,
    rotary: Rotary,
    local: Rotary,
    scale: float,
    soft_cap: float | None,
    mlp: Mlp,
    norm: Norm,
    bias: bool,
    causal: bool = True,
) -> list[Layer]:
    full = heads.attention(
        rotary, scale=scale, soft_cap=soft_cap, qk_norm=norm, qkv_bias=bias, o_bias=bias, causal=causal
    )
    sliding = replace(full, rotary=local, window=window)
    return [Layer(sliding if each else full, mlp, norm, norm, norm, norm) for each in local_layers]


GEMMA3 = Architecture(("Gemma3ForCausalLM",), from_hf, "gemma3", from_gguf)
