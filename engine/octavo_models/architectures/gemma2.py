"""Gemma 2: norms before and after both halves, a window in each second layer, caps on attention's scores and on logits."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import gemma
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.fields import Fields
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at

HF_GEMMA2 = HF_LLAMA.updated(
    {
        "post_attention_norm": at("post_attention_layernorm"),  # on attention's output, where Llama's precedes the MLP
        "pre_mlp_norm": at("pre_feedforward_layernorm"),
        "post_mlp_norm": at("post_feedforward_layernorm"),
    }
)
WINDOW = 4096
LAYERS_OF_27B = 46
ATTENTION_CAP, LOGITS_CAP = 50.0, 30.0  # where the config is silent; null means none


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count, norm = source.fields, source.heads(gemma.HEAD_DIM), source.num_layers(), gemma.norm(source)
    bias = c.boolean("attention_bias", False)
    full = heads.attention(
        rotary_from_hf(c, heads.dim),
        scale=c.number("query_pre_attn_scalar", 256.0) ** -0.5,
        soft_cap=soft_cap(c, "attn_logit_softcapping", ATTENTION_CAP),
        qkv_bias=bias,
        o_bias=bias,
    )
    sliding = replace(full, window=c.integer("sliding_window", WINDOW))
    local_layers = source.local_layers([i % 2 == 0 for i in range(count)])
    mlp = Mlp(c.integer("intermediate_size"), source.activation("hidden_activation", "gelu_pytorch_tanh"))
    layers = [Layer(sliding if local else full, mlp, norm, norm, norm, norm) for local in local_layers]
    draft = source.draft(layers, norm, HF_GEMMA2, tied_head=True)
    return gemma.scaled(replace(draft, logits_soft_cap=soft_cap(c, "final_logit_softcapping", LOGITS_CAP)), source)


def soft_cap(config: Fields, name: str, default: float | None = None) -> float | None:
    """A cap; `default` where the config is silent, None where it says null."""
    if name not in config.values:
        return default
    return config.number(name) if config.has(name) else None


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, count = source.fields, source.heads(), source.num_layers()
    # GGUF does not store query_pre_attn_scalar: llama.cpp recognizes the 27B by its layers.
    scale = (m.integer("embedding_length") / heads.num if count == LAYERS_OF_27B else heads.dim) ** -0.5
    cap = m.number("attn_logit_softcapping", ATTENTION_CAP)
    full = gguf_parts.attention(source, scale=scale, soft_cap=cap)
    sliding = replace(full, window=m.integer("attention.sliding_window", WINDOW))
    attentions = [full if i % 2 else sliding for i in range(count)]
    draft = gguf_parts.draft(source, attentions, [gguf_parts.mlp(source, "gelu_tanh")] * count, after=True)
    return gemma.scaled_from_gguf(replace(draft, logits_soft_cap=m.number("final_logit_softcapping", LOGITS_CAP)))


GEMMA2 = Architecture(("Gemma2ForCausalLM",), from_hf, "gemma2", from_gguf)
