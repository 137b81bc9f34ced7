"""Qwen 2 and 2.5: Llama with biases on q, k and v."""

from __future__ import annotations

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.heads import Heads
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap

FIRST_WINDOW_LAYER = 28  # transformers' default of max_window_layers


def from_hf(source: HfConfig) -> SpecDraft:
    return draft_from_hf(source, source.heads(), HF_LLAMA, qk_norm=False, qkv_bias=True, o_bias=False)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count = source.num_layers()
    return gguf_parts.draft(source, [gguf_parts.attention(source)] * count, [gguf_parts.mlp(source)] * count)


def draft_from_hf(
    source: HfConfig, heads: Heads, tensors: TensorMap, *, qk_norm: bool, qkv_bias: bool, o_bias: bool
) -> SpecDraft:
    """Qwen's decoder; `qk_norm` is a norm over each head of q and k."""
    c, count = source.fields, source.num_layers()
    norm = Norm(eps=c.number("rms_norm_eps", 1e-6))
    # Without use_sliding_window the window in the config means nothing; with it, the first layers still see all.
    slides = c.boolean("use_sliding_window", False) and c.raw("sliding_window") is not None
    window = c.integer("sliding_window") if slides else None
    first = c.integer("max_window_layers", FIRST_WINDOW_LAYER, minimum=0)
    local_layers = source.local_layers([slides and i >= first for i in range(count)])
    rotary = rotary_from_hf(c, heads.dim)
    mlp = Mlp(c.integer("intermediate_size"), source.activation())
    attentions = [
        heads.attention(
            rotary,
            window=window if local else None,
            qk_norm=norm if qk_norm else None,
            qkv_bias=qkv_bias,
            o_bias=o_bias,
        )
        for local in local_layers
    ]
    return source.draft([Layer(attention, mlp, norm, None, norm, None) for attention in attentions], norm, tensors)


QWEN2 = Architecture(("Qwen2ForCausalLM",), from_hf, "qwen2", from_gguf)
